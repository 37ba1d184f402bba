"""Freezing and unfreezing parameters during a run."""
