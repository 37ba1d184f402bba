"""Training tips as PyTorch-Ignite handlers that stay correct under accumulation, AMP, DDP and resume."""

from ignite_tips._version import __version__
from ignite_tips.clipping.adaptive_clipper import AdaptiveGradientClipper
from ignite_tips.clipping.history_clippers import AutoClipper, ZClipper
from ignite_tips.clipping.norm_clippers import GradientNormClipper, GradientValueClipper
from ignite_tips.clipping.norms import clip_gradient_norm, gradient_norm
from ignite_tips.core.events import (
    OptimizerEvents,
    attach_optimizer_events,
    current_step,
    detach_optimizer_events,
    for_optimizer,
)
from ignite_tips.distributed import process_group, wrap_model
from ignite_tips.freezing.ddp_reducer import rewrap_model
from ignite_tips.freezing.frozen_parameters import freeze_parameters, unfreeze_parameters
from ignite_tips.freezing.gradual_unfreezer import GradualUnfreezer
from ignite_tips.freezing.parameter_freezer import ParameterFreezer
from ignite_tips.parameters.group_table import ParameterRow, ParamGroupTable, param_group_table
from ignite_tips.parameters.groups import layerwise_lr_groups, param_groups
from ignite_tips.parameters.selection import select_parameters
from ignite_tips.report.describe import describe_trainer
from ignite_tips.report.trainer_report import TrainerReport
from ignite_tips.schedules.plateau_stepper import PlateauStepper
from ignite_tips.schedules.plot import plot_schedule
from ignite_tips.schedules.scheduler_stepper import SchedulerStepper
from ignite_tips.schedules.simulation import simulate_schedule
from ignite_tips.schedules.warmup import linear_warmup, warmup_stable_decay, with_warmup
from ignite_tips.summary.model import summarize_model
from ignite_tips.summary.model_summarizer import ModelSummarizer
from ignite_tips.summary.table import LayerSummary, ModelSummary
from ignite_tips.tensorboard.lr_logger import LearningRateLogger
from ignite_tips.tensorboard.resumable_logger import ResumableTensorboardLogger
from ignite_tips.tensorboard.run_annotator import RunAnnotator
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
    "ParamGroupTable",
    "ParameterFreezer",
    "ParameterRow",
    "PlateauStepper",
    "ResumableTensorboardLogger",
    "RunAnnotator",
    "SchedulerStepper",
    "TrainerReport",
    "ZClipper",
    "__version__",
    "attach_optimizer_events",
    "clip_gradient_norm",
    "current_step",
    "describe_trainer",
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


def __dir__() -> list[str]:
    """Return the public names alone: what a notebook completes after ``ignite_tips.``."""
    return __all__
