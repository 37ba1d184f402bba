"""Training tips as PyTorch-Ignite handlers that stay right."""

from ignite_tips._version import __version__
from ignite_tips.handlers.plateau import PlateauStepper
from ignite_tips.handlers.scheduling import SchedulerStepper
from ignite_tips.schedule_plot import plot_schedule
from ignite_tips.schedules import linear_warmup, warmup_stable_decay, with_warmup
from ignite_tips.simulation import simulate_schedule

__all__ = [
    "PlateauStepper",
    "SchedulerStepper",
    "__version__",
    "linear_warmup",
    "plot_schedule",
    "simulate_schedule",
    "warmup_stable_decay",
    "with_warmup",
]
