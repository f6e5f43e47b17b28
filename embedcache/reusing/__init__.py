"""What need not be encoded: rows of other stores, of shared folders, of the run itself."""
