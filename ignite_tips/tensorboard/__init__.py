"""TensorBoard's event files: written, resumed, read back."""
