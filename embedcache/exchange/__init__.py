"""Embeddings that others made, as stores; and stores as files and objects that other programs read."""
