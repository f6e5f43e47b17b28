"""Features and labels in, trained and judged heads out. Reads stores through embedcache's reader only."""
