"""Stores put together and taken apart: merges, concatenations, selections."""
