"""Mistakes that a look at a model's layers shows."""

from collections.abc import Container, Iterable, Iterator
from itertools import pairwise

from torch import nn
from torch.optim import Optimizer

from ignite_tips.core.findings import Finding
from ignite_tips.core.wrapped_optimizers import parameter_ids
from ignite_tips.parameters.selection import unwrap_model

__all__ = ["find_in_layers"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def find_in_layers(
    model: nn.Module, held: Container[nn.Parameter], optimizers: Iterable[Optimizer]
) -> Iterator[Finding]:
    """Yield what is very probably wrong with the layers of a model that trains.

    Args:
        model: bare or wrapped.
        held: the parameters that handlers freeze, together with the statistics of their modules.
        optimizers: those that are known.
    """
    model = unwrap_model(model)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if isinstance(module, nn.Sequential):
            yield from _useless_biases(name, module, optimizers)
        elif module.training and _has_statistics(module) and _is_frozen(module) and not any(p in held for p in own):
            text = (
                f"{_describe(name, module)} is frozen in its weights, but its running statistics still change in train "
                "mode; freeze it with ParameterFreezer or freeze_parameters, which hold them too"
            )
            yield Finding("statistics not frozen", text)


def _useless_biases(name: str, sequence: nn.Sequential, optimizers: Iterable[Optimizer]) -> Iterator[Finding]:
    """Yield the layers whose bias the next layer subtracts again. Only a Sequential says which layer is next."""
    for (key, layer), (next_key, norm) in pairwise(sequence.named_children()):
        bias = getattr(layer, "bias", None)
        if _subtracts_mean_of(norm, layer) and bias is not None and bias.requires_grad and not _is_frozen(norm):
            path, next_path = (f"{name}.{child}".lstrip(".") for child in (key, next_key))
            text = (
                f"{path}.bias has no effect, because {_describe(next_path, norm)} subtracts it again; its gradient is "
                f"rounding noise{_scaled_up(bias, optimizers)}; create {_describe(path, layer)} with bias=False"
            )
            yield Finding("useless bias", text)


def _scaled_up(parameter: nn.Parameter, optimizers: Iterable[Optimizer]) -> str:
    """Return what the optimizer does to a tiny gradient, if it divides it by its average size, as all with betas do."""
    kinds = [
        type(each).__name__ for each in optimizers if id(parameter) in parameter_ids(each) and "betas" in each.defaults
    ]
    return f", which {kinds[0]} scales up to full steps" if kinds else ""


def _subtracts_mean_of(norm: nn.Module, layer: nn.Module) -> bool:
    """Whether ``norm`` subtracts the mean of each channel that ``layer`` adds a bias to."""
    if isinstance(layer, _CONVOLUTIONS):
        return isinstance(norm, _BATCH_NORMS + _INSTANCE_NORMS)
    # Of an input with three dimensions a Linear changes the last, and BatchNorm normalizes the second.
    return isinstance(layer, nn.Linear) and isinstance(norm, _BATCH_NORMS) and layer.out_features == norm.num_features


def _is_frozen(module: nn.Module) -> bool:
    own = list(module.parameters(recurse=False))
    return bool(own) and not any(parameter.requires_grad for parameter in own)


def _has_statistics(module: nn.Module) -> bool:
    return any(name in ("running_mean", "running_var") for name, _ in module.named_buffers(recurse=False))


def _describe(path: str, module: nn.Module) -> str:
    return f"{path or 'the model'} ({type(module).__name__})"
