"""Metrics, their intervals, and their tables by split, stratum, group and parent."""
