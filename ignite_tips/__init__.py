"""Training tips as PyTorch-Ignite handlers that stay right."""

from ignite_tips._version import __version__
from ignite_tips.handlers.plateau import PlateauStepper
from ignite_tips.handlers.scheduling import SchedulerStepper

__all__ = ["PlateauStepper", "SchedulerStepper", "__version__"]
