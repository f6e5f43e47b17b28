"""Heads on disk: saved, loaded, exported, and what they know of their training rows."""
