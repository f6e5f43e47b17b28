"""Gradient-boosted trees, binned once for every fit."""
