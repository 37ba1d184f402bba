"""Training tips as PyTorch-Ignite handlers that stay right."""

from ignite_tips._version import __version__
from ignite_tips.gradients import clip_gradient_norm, gradient_norm
from ignite_tips.handlers.adaptive_clipping import AdaptiveGradientClipper
from ignite_tips.handlers.clipping import GradientNormClipper, GradientValueClipper
from ignite_tips.handlers.history_clipping import AutoClipper, ZClipper
from ignite_tips.handlers.lr_logging import LearningRateLogger
from ignite_tips.handlers.plateau import PlateauStepper
from ignite_tips.handlers.scheduling import SchedulerStepper
from ignite_tips.handlers.summarizing import ModelSummarizer
from ignite_tips.schedule_plot import plot_schedule
from ignite_tips.schedules import linear_warmup, warmup_stable_decay, with_warmup
from ignite_tips.simulation import simulate_schedule
from ignite_tips.summary import summarize_model
from ignite_tips.summary_table import LayerSummary, ModelSummary

__all__ = [
    "AdaptiveGradientClipper",
    "AutoClipper",
    "GradientNormClipper",
    "GradientValueClipper",
    "LayerSummary",
    "LearningRateLogger",
    "ModelSummarizer",
    "ModelSummary",
    "PlateauStepper",
    "SchedulerStepper",
    "ZClipper",
    "__version__",
    "clip_gradient_norm",
    "gradient_norm",
    "linear_warmup",
    "plot_schedule",
    "simulate_schedule",
    "summarize_model",
    "warmup_stable_decay",
    "with_warmup",
]
