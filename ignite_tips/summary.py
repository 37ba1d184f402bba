"""Look at a model: its layers, their shapes and parameters, without changing it."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from ignite_tips._checks import check_instance
from ignite_tips.model_state import preserved
from ignite_tips.module_calls import ModuleCalls
from ignite_tips.param_groups import group_names
from ignite_tips.parameters import unwrap_model
from ignite_tips.summary_table import LayerSummary, ModelSummary

__all__ = ["summarize_model"]


def summarize_model(
    model: nn.Module,
    example: Any = None,
    *,
    input_size: tuple[int, ...] | None = None,
    keywords: Mapping[str, Any] | None = None,
    optimizer: Optimizer | None = None,
) -> ModelSummary:
    """Run ``model`` once, without gradients and in eval mode, and return what its layers are.

    The model is afterwards as it was before, and so are the random number generators.
    """
    check_instance("model", model, nn.Module, "a torch.nn.Module")
    model = unwrap_model(model)
    if input_size is not None:
        example = torch.rand(input_size, device=_device(model))
    args = tuple(example) if isinstance(example, tuple | list) else (example,)
    calls = ModuleCalls()
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        model = copy.deepcopy(model)
    with preserved(model), calls.recorded(model), torch.no_grad():
        model.eval()
        model(*args, **(keywords or {}))
    layers = _layers(model, calls, optimizer)
    parameters, buffers = list(model.parameters()), list(model.buffers())
    return ModelSummary(
        layers=tuple(layers),
        total_parameters=sum(parameter.numel() for parameter in parameters),
        trainable_parameters=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        parameter_bytes=sum(parameter.nbytes for parameter in parameters),
        buffer_bytes=sum(buffer.nbytes for buffer in buffers),
        input_bytes=sum(value.nbytes for value in args if isinstance(value, torch.Tensor)),
        activation_bytes=sum(call.output_bytes for module, call in calls.first.items() if not list(module.children())),
        mult_adds=None,
        has_optimizer=optimizer is not None,
    )


def _device(model: nn.Module) -> torch.device:
    tensor = next(iter([*model.parameters(), *model.buffers()]), None)
    return tensor.device if tensor is not None else torch.device("cpu")


def _layers(model: nn.Module, calls: ModuleCalls, optimizer: Optimizer | None) -> list[LayerSummary]:
    groups: dict[nn.Parameter, tuple[str, float]] = {}
    if optimizer is not None:
        for name, group in zip(group_names(optimizer), optimizer.param_groups, strict=True):
            groups |= {parameter: (name, float(group["lr"])) for parameter in group["params"]}
    owners: dict[Any, str] = {}
    layers = []
    for name, module in model.named_modules(remove_duplicate=False):
        call = calls.first.get(module)
        own = list(module.parameters(recurse=False))
        new = [parameter for parameter in own if parameter not in owners]
        shared = [owners[item] for item in (module, *own) if item in owners]
        memberships = dict(groups[parameter] for parameter in own if parameter in groups)
        owners |= {item: name for item in (*new, module) if item not in owners}
        layers.append(
            LayerSummary(
                name=name,
                type=type(module).__name__,
                input_shape=call.inputs if call else "",
                output_shape=call.outputs if call else "",
                parameters=sum(parameter.numel() for parameter in new),
                trainable_parameters=sum(parameter.numel() for parameter in new if parameter.requires_grad),
                shared_with=shared[0] if shared else "",
                groups=tuple(memberships),
                lrs=tuple(memberships.values()),
            )
        )
    return layers
