"""Rows that are near each other: the nearest ones of a query, exactly or by an index, and near-duplicates."""
