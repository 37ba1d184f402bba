"""Training tips as PyTorch-Ignite handlers that stay right."""

from ignite_tips._version import __version__

__all__ = ["__version__"]
