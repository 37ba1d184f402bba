"""Curves, texts and annotations in TensorBoard: written, resumed, read back, drawn."""
