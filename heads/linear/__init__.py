"""Heads that are linear: logistic, ridge and quantile regression, prototypes."""
