"""The gradients that an optimizer is about to use, and the names of their parameters."""

from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from ignite_tips.clipping.shards import sum_terms
from ignite_tips.parameters.selection import unwrap_model

__all__ = ["Gradients", "check_parameters", "parameter_names"]


class Gradients:
    """The gradients of one update, in one list or in one for each param group.

    Each may be changed in place. A sparse gradient is coalesced, and the values that it stores stand for it; one of
    which each rank has a term is summed, because no rank could clamp it.

    Attributes:
        owners: the parameters that have a gradient, in lists.
        lists: their gradients, in lists of the same lengths.
        on_host: whether all are on the CPU, where reading a value waits for nothing.
    """

    # One is made in every update: attributes that only some updates need are properties.
    __slots__ = ("lists", "on_host", "owners")

    def __init__(self, optimizer: Optimizer, *, per_group: bool = False) -> None:
        self.owners: list[list[Tensor]] = []
        self.lists: list[list[Tensor]] = []
        self.on_host = True
        for group in optimizer.param_groups:
            if per_group or not self.lists:
                owners: list[Tensor] = []
                gradients: list[Tensor] = []
                self.owners.append(owners)
                self.lists.append(gradients)
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is not None:
                    owners.append(parameter)
                    is_plain = not (gradient.is_sparse or isinstance(gradient, DTensor))
                    gradients.append(gradient if is_plain else _prepared(parameter))
                    self.on_host = self.on_host and gradient.is_cpu

    @property
    def all(self) -> list[Tensor]:
        """All gradients in one list."""
        return self.lists[0] if len(self.lists) == 1 else list(chain.from_iterable(self.lists))

    @property
    def device(self) -> torch.device:
        """The first gradient's; the CPU where there is none."""
        return next((gradient.device for gradient in self.all), torch.device("cpu"))

    @property
    def partly_on_host(self) -> bool:
        """Whether some are on the CPU and some are not, so that the host waits in any case."""
        return not self.on_host and any(gradient.is_cpu for gradient in self.all)

    @property
    def are_uniform(self) -> bool:
        """Whether all are plain tensors of one device and one dtype of more than 16 bits, as fused kernels scale."""
        kinds = {(gradient.device, gradient.dtype, isinstance(gradient, DTensor)) for gradient in self.all}
        return len(kinds) == 1 and all(dtype.itemsize > 2 and not sharded for _, dtype, sharded in kinds)

    @property
    def size(self) -> int:
        """How many values there are."""
        return sum(gradient.numel() for gradient in self.all)


def check_parameters(optimizer: Optimizer) -> None:
    """Raise unless the optimizer has parameters whose gradients can be measured.

    Raises:
        TypeError: if parameters are shards that do not say so.
        ValueError: if the optimizer has no parameter.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if any(hasattr(parameter, "_fsdp_flattened") for parameter in parameters):
        raise TypeError(
            "optimizer must have whole parameters or DTensors, got shards of FullyShardedDataParallel; "
            "use torch.distributed.fsdp.fully_shard, whose parameters say what they are shards of"
        )
    if not parameters:
        raise ValueError("optimizer must have at least one parameter, got none in any of its param groups")


def parameter_names(optimizer: Optimizer, model: nn.Module | None = None) -> dict[Tensor, str]:
    """Return a name for each of the optimizer's parameters.

    It is the model's, or the one that the optimizer was given with ``model.named_parameters()``, or else the
    parameter's place.

    Example:
        >>> linear = nn.Linear(2, 1, bias=False)
        >>> list(parameter_names(torch.optim.SGD(linear.parameters(), lr=0.1)).values())
        ['parameter 0 of group 0']
    """
    in_model = {} if model is None else {p: name for name, p in unwrap_model(model).named_parameters()}
    names: dict[Tensor, str] = {}
    for index, group in enumerate(optimizer.param_groups):
        given = group.get("param_names") or [
            f"parameter {place} of group {group.get('name', index)}" for place in range(len(group["params"]))
        ]
        names.update((p, in_model.get(p, name)) for p, name in zip(group["params"], given, strict=True))
    return names


def _prepared(parameter: Tensor) -> Tensor:
    gradient: Any = parameter.grad
    if isinstance(gradient, DTensor):
        whole = sum_terms(gradient)
    else:
        whole = gradient if gradient.is_coalesced() else gradient.coalesce()
    if whole is not gradient:
        parameter.grad = whole
    values: Tensor = whole._values() if whole.is_sparse else whole
    return values
