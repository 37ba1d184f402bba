"""Norms and clipping of gradients."""
