"""Multi-layer perceptrons and their training."""
