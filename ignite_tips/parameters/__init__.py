"""Select and group parameters by name."""
