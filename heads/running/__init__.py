"""Runs: training, predicting, judging, sweeping, and their directories."""
