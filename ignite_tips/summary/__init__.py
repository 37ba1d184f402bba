"""Summaries of a model, layer by layer."""
