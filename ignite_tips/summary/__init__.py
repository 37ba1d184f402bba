"""Show what a model is, layer by layer."""
