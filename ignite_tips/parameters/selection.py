"""Select parameters by name pattern."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import translate

from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from ignite_tips._checks import check_instance, check_names

__all__ = [
    "ParameterNames",
    "as_patterns",
    "check_belongs",
    "count_trainable",
    "named_parameters",
    "select_parameters",
    "trainable_fraction",
    "unwrap_model",
    "unwrap_once",
]


def unwrap_model(model: nn.Module) -> nn.Module:
    """Return the user's module inside DistributedDataParallel, DataParallel and torch.compile wrappers.

    Example:
        >>> linear = nn.Linear(2, 2)
        >>> unwrap_model(nn.DataParallel(linear)) is linear
        True
    """
    check_instance("model", model, nn.Module, "a torch.nn.Module")
    while (inner := unwrap_once(model)) is not None:
        model = inner
    return model


def unwrap_once(model: nn.Module) -> nn.Module | None:
    """Return the module inside the outermost wrapper, or None if ``model`` is not wrapped."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner = model.module
    else:
        inner = getattr(model, "_orig_mod", None)  # torch.compile's; importing its class takes seconds
    return inner if isinstance(inner, nn.Module) else None


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters by name, without a wrapper's prefix; a shared parameter appears under its first name.

    Raises:
        TypeError: if the model is not a module.
        ValueError: if it has no parameters.
    """
    named = dict(unwrap_model(model).named_parameters())
    if not named:
        raise ValueError(f"model must have parameters, got none in {type(model).__name__}")
    return named


def select_parameters(model: nn.Module, patterns: str | Iterable[str]) -> dict[str, nn.Parameter]:
    """Return the parameters whose names match any of the shell globs, by name, in the model's order.

    Args:
        model: any module; the names are those of the module inside a wrapper (see ``unwrap_model``).
        patterns: one or several globs over ``named_parameters()`` names; ``*`` matches dots too. A parameter that
            layers share is selected by any of its names, and returned under the first.

    Raises:
        TypeError: if the model is not a module, or a pattern is not a string.
        ValueError: if a pattern matches no parameter, or there is no pattern or no parameter.

    Example:
        >>> list(select_parameters(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), "*.bias"))
        ['0.bias', '1.bias']
    """
    return ParameterNames(model).select(as_patterns(patterns))


class ParameterNames:
    """A model's parameter names, collected once and matched against any number of patterns.

    Attributes:
        model: the model as given.
        named: as ``named_parameters`` returns them.

    Args:
        model: bare or wrapped.
        on_ranks: names of the parameters of several ranks. A pattern may match one of another rank alone, and then
            selects nothing here.

    Raises:
        TypeError, ValueError: as ``named_parameters``.
    """

    def __init__(self, model: nn.Module, on_ranks: Sequence[str] = ()) -> None:
        self.model = model
        self.named = named_parameters(model)
        first_names = {id(parameter): name for name, parameter in self.named.items()}
        every = unwrap_model(model).named_parameters(remove_duplicate=False)
        self._first_names = [(name, first_names[id(parameter)]) for name, parameter in every]
        self._shown = list(on_ranks or self.named)
        self._all_names = dict.fromkeys([*on_ranks, *dict(self._first_names)])

    def select(self, patterns: Iterable[str]) -> dict[str, nn.Parameter]:
        """Return the parameters that match any of the patterns, by name, in the model's order.

        Raises:
            ValueError: as ``matching``.
        """
        chosen = {name for pattern in patterns for name in self.matching(pattern)}
        return {name: parameter for name, parameter in self.named.items() if name in chosen}

    def matching(self, pattern: str) -> list[str]:
        """Return the parameters that have a name which matches the shell glob, each by its first name.

        Raises:
            ValueError: if no parameter matches, here or on other ranks.
        """
        matches = re.compile(translate(pattern)).match
        found = list(dict.fromkeys(first for name, first in self._first_names if matches(name)))
        if not found and not self._matches(pattern):
            meant = self._suggest(pattern)
            hint = f"did you mean {meant}? Names" if meant else "names"
            raise ValueError(
                f"pattern {pattern!r} matches no parameter; {hint} start with: {_first_names(self._shown)}"
            )
        return found

    def _suggest(self, pattern: str) -> str | None:
        """Return what was meant by a pattern that matches nothing: a glob that matches, or several."""
        several = pattern.replace(",", " ").split()
        if len(several) > 1 and all(map(self._matches, several)):
            return repr(several)
        # A module without its parameters, a part of a name, a name that begins so, a wrapper's prefix.
        forms = (
            f"{pattern}.*",
            f"*.{pattern}",
            f"*.{pattern}.*",
            f"{pattern}*",
            re.sub(r"^(module|_orig_mod)\.", "", pattern),
        )
        fitting = next((form for form in forms if pattern and form and self._matches(form)), None)
        if fitting is not None:
            return repr(fitting)
        parts = self._all_names.copy()
        for name in [*parts]:
            words = name.split(".")
            parts.update((".".join(words[:count]) + ".*", None) for count in range(1, len(words)))
        nearest = get_close_matches(pattern, parts, n=1)
        return repr(nearest[0]) if nearest else None

    def _matches(self, pattern: str) -> bool:
        return any(map(re.compile(translate(pattern)).match, self._all_names))


def as_patterns(patterns: str | Iterable[str], name: str = "patterns") -> tuple[str, ...]:
    """Return one or several patterns as a tuple; raise if there are none, or one is not a string.

    Args:
        patterns: a string, or an iterable of strings.
        name: the name of the argument, for errors.

    Example:
        >>> as_patterns("body.*"), as_patterns(["a.*", "b.*"])
        (('body.*',), ('a.*', 'b.*'))
    """
    wanted = check_names(name, patterns)
    if not wanted:
        raise ValueError(f"{name} must have at least one pattern, got none")
    return wanted


def check_belongs(optimizer: Optimizer, model: nn.Module) -> None:
    """Raise unless ``optimizer`` is an Optimizer with at least one parameter of ``model``.

    A model of ``fully_shard`` is not checked: its modules may have copies in place of the optimizer's parameters.
    """
    check_instance("optimizer", optimizer, Optimizer, "a torch Optimizer")
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not any(id(parameter) in held for parameter in model.parameters()) and not any(
        isinstance(module, FSDPModule) for module in model.modules()
    ):
        raise ValueError(
            f"optimizer must have parameters of the model, got {type(optimizer).__name__} with none of them; "
            "pass the model whose parameters it updates"
        )


def trainable_fraction(model: nn.Module) -> float:
    """Return the fraction of the model's parameter values that require a gradient, from 0 to 1.

    Example:
        >>> trainable_fraction(nn.Linear(1, 1).requires_grad_(False))
        0.0
    """
    trainable, total = count_trainable(model)
    return trainable / max(total, 1)


def count_trainable(model: nn.Module) -> tuple[int, int]:
    """Return how many of the model's parameter values require a gradient, and how many there are.

    Those of a lazy module do not count before its first forward pass.
    """
    parameters = [parameter for parameter in named_parameters(model).values() if not is_lazy(parameter)]
    trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return trainable, sum(parameter.numel() for parameter in parameters)


def _first_names(names: Iterable[str], count: int = 5) -> str:
    shown = list(names)
    text = ", ".join(shown[:count])
    return f"{text}, ... ({len(shown)} in all)" if len(shown) > count else text
