"""From probabilities to decisions: calibration, priors, thresholds, conformal sets."""
