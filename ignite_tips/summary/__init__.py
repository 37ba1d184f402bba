"""A model's layers as data and as a table."""
