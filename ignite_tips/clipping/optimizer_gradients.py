"""An optimizer's gradients as lists, whose parameters are collected once."""

from itertools import chain
from operator import attrgetter, is_

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from ignite_tips.clipping.norms import norm_on_host
from ignite_tips.parameters.selection import unwrap_model

__all__ = ["OptimizerGradients", "parameter_names"]

_IS_SPARSE = attrgetter("is_sparse")
_WORTH_FOLDING = 1 << 16  # values
_LARGE = 32_768  # values of a matrix from which on a view of it and its dot product take less time than its norm


class OptimizerGradients:
    """The gradients that an optimizer is about to use.

    The lists of parameters are made at the first use and again only when the optimizer's groups have changed: one
    was added, replaced, or has more or fewer parameters; a parameter stands in another's place; or the
    first parameter, and so the model, was given another dtype or moved to or from the CPU.

    Attributes:
        parameters: one list of all parameters, or with ``per_group`` one list for each param group.
        uniform: whether all are plain tensors of one device and one dtype of more than 16 bits, none sparse or empty.
        device: that of the first parameter.
        worth_folding: whether a fused kernel may scale them for less than a pass over them takes, which for few on the
            CPU is next to nothing.
        on_host: whether all are on the CPU, where to read a value waits for nothing.
        partly_on_host: whether some are and some are not, so that the host waits in any case.

    Raises:
        TypeError: if parameters are shards that do not say so.
        ValueError: if the optimizer has no parameter.
    """

    def __init__(self, optimizer: Optimizer, *, per_group: bool = False) -> None:
        self.parameters: list[list[Tensor]] = []
        self.uniform = True
        self.on_host = True
        self.partly_on_host = False
        self.worth_folding = False
        self.device = torch.device("cpu")
        self._optimizer = optimizer
        self._per_group = per_group
        self._has_sparse = False
        self._by_product: list[tuple[list[Tensor], list[Tensor], list[Tensor]]] = []
        self._everything: list[Tensor] = []
        self._dtype: torch.dtype | None = None
        self._first_on_host = True
        self._seen: list[list[Tensor]] = []
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if any(hasattr(parameter, "_fsdp_flattened") for parameter in parameters):
            raise TypeError(
                "optimizer must have whole parameters or DTensors, got shards of FullyShardedDataParallel; "
                "use torch.distributed.fsdp.fully_shard, whose parameters say what they are shards of"
            )
        _check_some(parameters)
        self._first = parameters[0]

    def refresh(self) -> bool:
        """Make the lists of parameters anew if the groups have changed; return whether they have."""
        groups = self._optimizer.param_groups
        first = self._first
        if len(groups) == len(self._seen) and first.dtype is self._dtype and first.is_cpu is self._first_on_host:
            for group, seen in zip(groups, self._seen):  # noqa: B905  # strict= costs more than the rest
                params = group["params"]
                if len(params) != len(seen) or not all(map(is_, params, seen)):
                    break
            else:
                return False
        lists = [list(group["params"]) for group in groups]
        everything = list(chain.from_iterable(lists))
        _check_some(everything)
        self._seen = lists
        self._everything = everything
        self._first = everything[0]
        self.parameters = lists if self._per_group else [everything]
        self.uniform = not self._has_sparse and _are_uniform(everything)
        self.on_host = all(parameter.is_cpu for parameter in everything)
        self.partly_on_host = not self.on_host and any(parameter.is_cpu for parameter in everything)
        self.device = self._first.device
        self._dtype, self._first_on_host = self._first.dtype, self._first.is_cpu
        size = sum(parameter.numel() for parameter in everything)
        self.worth_folding = self.uniform and (size > _WORTH_FOLDING or not self.on_host)
        is_real = self._first.dtype in (torch.float32, torch.float64)
        self._by_product = (
            [_by_product(listed) for listed in self.parameters] if self.uniform and self.on_host and is_real else []
        )
        return True

    def collect(self) -> list[list[Tensor]]:
        """Return the gradients in lists like ``parameters``, without those that are None.

        Once ``expect_sparse`` was called, a sparse gradient is coalesced, and the values that it stores, which may be
        changed in place, stand for it.
        """
        self.refresh()
        if self._has_sparse:
            return [[_values(p, p.grad) for p in parameters if p.grad is not None] for parameters in self.parameters]
        if len(self.parameters) == 1:
            return [[g for p in self.parameters[0] if (g := p.grad) is not None]]
        return [[g for p in parameters if (g := p.grad) is not None] for parameters in self.parameters]

    def owners(self, count: int) -> list[Tensor]:
        """Return the parameters of the ``count`` gradients that ``collect`` returned, in their order."""
        everything = self._everything
        return everything if len(everything) == count else [p for p in everything if p.grad is not None]

    def norms_on_host(self) -> list[float] | None:
        """Return the 2-norm of each list, but for rounding, or None where there is no cheaper way than torch's."""
        self.refresh()
        norms = []
        try:
            for vectors, large, others in self._by_product:
                flat = [g for p in vectors if (g := p.grad) is not None]
                flat += [g.view(-1) for p in large if (g := p.grad) is not None]
                rest = [g for p in others if (g := p.grad) is not None]
                if any(map(_IS_SPARSE, rest)):  # newer torch has a norm of them
                    return None
                norms.append(norm_on_host(flat, rest))
        except (RuntimeError, OverflowError):  # a gradient is sparse, or a large one not contiguous; or the sum is inf
            return None
        return norms or None

    def expect_sparse(self, gradients: list[list[Tensor]]) -> bool:
        """Look for sparse gradients from now on, which costs a little, if there are any; return whether that is new."""
        if self._has_sparse:
            return False
        for listed in gradients:
            for gradient in listed:  # any() would take thrice as long
                if gradient.is_sparse:
                    self._has_sparse, self.uniform, self.worth_folding, self._by_product = True, False, False, []
                    return True
        return False


def parameter_names(optimizer: Optimizer, model: nn.Module | None = None) -> dict[Tensor, str]:
    """Return a name for each of the optimizer's parameters.

    It is the model's; or the one that the optimizer was given with ``model.named_parameters()``; or else
    the parameter's place.

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


def _check_some(parameters: list[Tensor]) -> None:
    if not parameters:
        raise ValueError("optimizer must have at least one parameter, got none in any of its param groups")


def _values(parameter: Tensor, gradient: Tensor) -> Tensor:
    if not gradient.is_sparse:
        return gradient
    if not gradient.is_coalesced():
        parameter.grad = gradient = gradient.coalesce()
    return gradient._values()


def _by_product(parameters: list[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return the vectors, what is large, and the others."""
    vectors = [parameter for parameter in parameters if parameter.dim() == 1]
    matrices = [parameter for parameter in parameters if parameter.dim() != 1]
    large = [parameter for parameter in matrices if parameter.numel() > _LARGE]
    return vectors, large, [parameter for parameter in matrices if parameter.numel() <= _LARGE]


def _are_uniform(parameters: list[Tensor]) -> bool:
    kinds = {(parameter.device, parameter.dtype, isinstance(parameter, DTensor)) for parameter in parameters}
    return (
        len(kinds) == 1
        and all(getattr(parameter, "grad_dtype", None) in (None, parameter.dtype) for parameter in parameters)
        and all(parameter.numel() for parameter in parameters)
        and all(dtype.itemsize > 2 and not distributed for _, dtype, distributed in kinds)
    )
