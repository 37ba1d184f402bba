"""Select parameters by name pattern; freeze and unfreeze them."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

from torch import nn

from ignite_tips._checks import check_instance, describe

__all__ = ["select_parameters", "unwrap_model"]


def unwrap_model(model: nn.Module) -> nn.Module:
    """Return the user's module inside DistributedDataParallel, DataParallel and torch.compile wrappers.

    Example:
        >>> linear = nn.Linear(2, 2)
        >>> unwrap_model(nn.DataParallel(linear)) is linear
        True
    """
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):  # torch.compile
            model = inner
        else:
            return model


def select_parameters(model: nn.Module, patterns: str | Iterable[str]) -> dict[str, nn.Parameter]:
    """Return the parameters whose names match any of the shell globs, by name, in the model's order.

    Args:
        model: any module; the names are those of the module inside a wrapper (see ``unwrap_model``).
        patterns: one glob over ``named_parameters()`` names or several; ``*`` matches dots too.

    Raises:
        TypeError: if the model is no module, or a pattern no string.
        ValueError: if a pattern matches no parameter, or there is no pattern.

    Example:
        >>> list(select_parameters(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), "*.bias"))
        ['0.bias', '1.bias']
    """
    check_instance("model", model, nn.Module, "a torch.nn.Module")
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    if not patterns:
        raise ValueError("patterns must have at least one pattern, got none")
    named = dict(unwrap_model(model).named_parameters())
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"patterns must be strings, got {describe(pattern)}")
        if not any(fnmatchcase(name, pattern) for name in named):
            raise ValueError(f"pattern {pattern!r} matches no parameter; names start with: {_first_names(named)}")
    return {
        name: parameter for name, parameter in named.items() if any(fnmatchcase(name, pattern) for pattern in patterns)
    }


def _first_names(names: Iterable[str], count: int = 5) -> str:
    shown = list(names)
    text = ", ".join(shown[:count]) or "none, the model has no parameters"
    return f"{text}, ... ({len(shown)} in all)" if len(shown) > count else text
