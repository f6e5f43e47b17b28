"""What every result stands beside, and how a run keeps it."""
