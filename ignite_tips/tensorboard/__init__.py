"""Curves, texts and annotations in TensorBoard: write, resume, read back, draw."""
