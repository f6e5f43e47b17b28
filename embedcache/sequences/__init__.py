"""Sequences as letters and tokens: which of them are looked at, packed into batches, pooled into vectors."""
