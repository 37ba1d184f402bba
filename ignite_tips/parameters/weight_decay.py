"""Find the parameters that weight decay leaves out: biases, and the scales of normalization layers."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import nn
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized
from torch.nn.utils.weight_norm import WeightNorm

from ignite_tips._checks import check_names
from ignite_tips._warnings import warn_user
from ignite_tips.parameters.selection import select_parameters, unwrap_model

__all__ = ["undecayed_names"]

# Their parameters scale and shift normalized values; weight decay would pull the scales towards 0.
_NORM_LAYERS: tuple[type[nn.Module], ...] = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GroupNorm,
)

_BIAS = re.compile(r"(?<![a-z])bias(?![a-z])", re.IGNORECASE)


def undecayed_names(
    model: nn.Module, named: Mapping[str, nn.Parameter], no_decay: str | Iterable[str]
) -> frozenset[str]:
    """Return those of the parameters ``named`` that ``no_decay`` selects, as ``param_groups`` says.

    Example:
        >>> model = nn.GRU(2, 2)
        >>> sorted(undecayed_names(model, dict(model.named_parameters()), "biases"))
        ['bias_hh_l0', 'bias_ih_l0']
    """
    wanted = check_names("no_decay", no_decay)
    patterns = [pattern for pattern in wanted if pattern not in ("biases", "norms")]
    chosen = {id(parameter) for parameter in select_parameters(model, patterns).values()} if patterns else set()
    doubtful: set[int] = set()
    for layer in unwrap_model(model).modules():
        tensors = list(_own_tensors(layer))
        if "biases" in wanted:
            chosen.update(id(tensor.parameter) for tensor in tensors if tensor.is_bias)
        if "norms" in wanted:
            chosen.update(id(tensor.parameter) for tensor in _scales(layer, tensors))
            doubtful.update(id(tensor.parameter) for tensor in tensors if _looks_like_scale(layer, tensor))
    _warn_of([name for name, parameter in named.items() if id(parameter) in doubtful - chosen])
    return frozenset(name for name, parameter in named.items() if id(parameter) in chosen)


class _Tensor(NamedTuple):
    """A layer's own parameter, or one that parametrizes a tensor of the layer and counts under that tensor's name."""

    parameter: nn.Parameter
    is_bias: bool
    is_vector: bool


def _own_tensors(layer: nn.Module) -> Iterator[_Tensor]:
    if isinstance(layer, ParametrizationList):  # these are the tensors of the layer that has it
        return
    magnitudes = {f"{hook.name}_g" for hook in layer._forward_pre_hooks.values() if isinstance(hook, WeightNorm)}
    for name, parameter in layer.named_parameters(recurse=False):
        yield _describe(name, parameter, is_magnitude=name in magnitudes)
    if is_parametrized(layer):
        parametrizations: Any = layer.parametrizations
        for name, parts in parametrizations.items():
            magnitude = parts.original0 if isinstance(parts[0], _WeightNorm) else None
            for parameter in parts.parameters(recurse=False):
                yield _describe(name, parameter, is_magnitude=parameter is magnitude)


def _describe(name: str, parameter: nn.Parameter, *, is_magnitude: bool) -> _Tensor:
    has_shape = not isinstance(parameter, nn.UninitializedParameter)
    return _Tensor(parameter, bool(_BIAS.search(name)), is_magnitude or (has_shape and parameter.ndim <= 1))


def _scales(layer: nn.Module, tensors: list[_Tensor]) -> list[_Tensor]:
    if isinstance(layer, _NORM_LAYERS):
        return tensors
    vectors = [tensor for tensor in tensors if tensor.is_vector]
    scales = [tensor for tensor in vectors if not tensor.is_bias]
    # Without a matrix it is a norm, or works as one, and its biases shift what it scales.
    return vectors if scales and len(vectors) == len(tensors) else scales


def _looks_like_scale(layer: nn.Module, tensor: _Tensor) -> bool:
    if tensor.is_bias or tensor.is_vector or "norm" not in type(layer).__name__.lower():
        return False
    lazy = isinstance(tensor.parameter, nn.UninitializedParameter)
    return not lazy and sum(length > 1 for length in tensor.parameter.shape) <= 1


def _warn_of(names: list[str]) -> None:
    if names:
        warn_user(
            f"no_decay='norms' does not find {', '.join(names)}, which look like scales by their shape and their "
            "class's name, but have several dimensions; if they scale, add them to no_decay by name"
        )
