"""Training tips as PyTorch-Ignite handlers that stay right."""

from ignite_tips._version import __version__
from ignite_tips.gradients import clip_gradient_norm, gradient_norm
from ignite_tips.handlers.clipping import GradientNormClipper

__all__ = ["GradientNormClipper", "__version__", "clip_gradient_norm", "gradient_norm"]
