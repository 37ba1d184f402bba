"""Training tips as PyTorch-Ignite handlers that stay right."""

from ignite_tips._version import __version__
from ignite_tips.gradients import clip_gradient_norm, gradient_norm
from ignite_tips.handlers.clipping import GradientNormClipper
from ignite_tips.handlers.plateau import PlateauStepper
from ignite_tips.handlers.scheduling import SchedulerStepper

__all__ = [
    "GradientNormClipper",
    "PlateauStepper",
    "SchedulerStepper",
    "__version__",
    "clip_gradient_norm",
    "gradient_norm",
]
