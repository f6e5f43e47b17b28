"""Which rows train, tune and judge: plans, folds, and the certificate of what they share."""
