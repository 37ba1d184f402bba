"""Gradient clipping: norms, thresholds, and what happens to gradients that are not finite."""
