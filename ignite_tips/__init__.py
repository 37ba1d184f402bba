"""Training tips as PyTorch-Ignite handlers that stay right."""

from ignite_tips._version import __version__
from ignite_tips.distributed import process_group, wrap_model
from ignite_tips.events import (
    OptimizerEvents,
    attach_optimizer_events,
    current_step,
    detach_optimizer_events,
    for_optimizer,
)
from ignite_tips.gradients.norms import clip_gradient_norm, gradient_norm
from ignite_tips.handlers.adaptive_clipping import AdaptiveGradientClipper
from ignite_tips.handlers.annotating import RunAnnotator
from ignite_tips.handlers.clipping import GradientNormClipper, GradientValueClipper
from ignite_tips.handlers.freezing import ParameterFreezer
from ignite_tips.handlers.gradual_unfreezing import GradualUnfreezer
from ignite_tips.handlers.history_clipping import AutoClipper, ZClipper
from ignite_tips.handlers.lr_logging import LearningRateLogger
from ignite_tips.handlers.plateau import PlateauStepper
from ignite_tips.handlers.scheduling import SchedulerStepper
from ignite_tips.handlers.summarizing import ModelSummarizer
from ignite_tips.parameters.groups import layerwise_lr_groups, param_group_table, param_groups
from ignite_tips.parameters.selection import freeze_parameters, select_parameters, unfreeze_parameters
from ignite_tips.rewrapping import rewrap_model
from ignite_tips.schedules.factors import linear_warmup, warmup_stable_decay, with_warmup
from ignite_tips.schedules.plot import plot_schedule
from ignite_tips.schedules.simulation import simulate_schedule
from ignite_tips.summary.model import summarize_model
from ignite_tips.summary.table import LayerSummary, ModelSummary
from ignite_tips.tensorboard.resumable_logger import ResumableTensorboardLogger
from ignite_tips.tensorboard.run_plot import plot_runs

__all__ = [
    "AdaptiveGradientClipper",
    "AutoClipper",
    "GradientNormClipper",
    "GradientValueClipper",
    "GradualUnfreezer",
    "LayerSummary",
    "LearningRateLogger",
    "ModelSummarizer",
    "ModelSummary",
    "OptimizerEvents",
    "ParameterFreezer",
    "PlateauStepper",
    "ResumableTensorboardLogger",
    "RunAnnotator",
    "SchedulerStepper",
    "ZClipper",
    "__version__",
    "attach_optimizer_events",
    "clip_gradient_norm",
    "current_step",
    "detach_optimizer_events",
    "for_optimizer",
    "freeze_parameters",
    "gradient_norm",
    "layerwise_lr_groups",
    "linear_warmup",
    "param_group_table",
    "param_groups",
    "plot_runs",
    "plot_schedule",
    "process_group",
    "rewrap_model",
    "select_parameters",
    "simulate_schedule",
    "summarize_model",
    "unfreeze_parameters",
    "warmup_stable_decay",
    "with_warmup",
    "wrap_model",
]
