"""Training tips as PyTorch-Ignite handlers that stay right."""

from ignite_tips._version import __version__
from ignite_tips.distributed import process_group, wrap_model
from ignite_tips.handlers.freezing import ParameterFreezer
from ignite_tips.param_groups import layerwise_lr_groups, param_group_table, param_groups
from ignite_tips.parameters import freeze_parameters, select_parameters, unfreeze_parameters
from ignite_tips.rewrapping import rewrap_model

__all__ = [
    "ParameterFreezer",
    "__version__",
    "freeze_parameters",
    "layerwise_lr_groups",
    "param_group_table",
    "param_groups",
    "process_group",
    "rewrap_model",
    "select_parameters",
    "unfreeze_parameters",
    "wrap_model",
]
