"""What a head learns from: features, labels, groups, strata and weights of rows, and what is done to them first."""
