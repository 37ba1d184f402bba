"""Select parameters by name pattern; freeze and unfreeze them."""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase, translate

from torch import nn

from ignite_tips._checks import check_instance, describe

__all__ = [
    "FrozenParameters",
    "ParameterNames",
    "as_patterns",
    "freeze_parameters",
    "named_parameters",
    "select_parameters",
    "trainable_share",
    "unfreeze_parameters",
    "unwrap_model",
]

# What marks a module that changes buffers in its forward pass while it trains: BatchNorm and its kin, spectral norm.
_STATISTICS = ("running_mean", "running_var", "_u")


def unwrap_model(model: nn.Module) -> nn.Module:
    """Return the user's module inside DistributedDataParallel, DataParallel and torch.compile wrappers.

    Example:
        >>> linear = nn.Linear(2, 2)
        >>> unwrap_model(nn.DataParallel(linear)) is linear
        True
    """
    check_instance("model", model, nn.Module, "a torch.nn.Module")
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):  # torch.compile
            model = inner
        else:
            return model


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of the module inside any wrapper by name, one that layers share under its first name.

    Raises:
        TypeError: if the model is no module.
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
        patterns: one glob over ``named_parameters()`` names or several; ``*`` matches dots too. A parameter that
            layers share is selected by any of its names, and returned under the first.

    Raises:
        TypeError: if the model is no module, or a pattern no string.
        ValueError: if a pattern matches no parameter, or there is no pattern or parameter.

    Example:
        >>> list(select_parameters(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), "*.bias"))
        ['0.bias', '1.bias']
    """
    names = ParameterNames(model)
    chosen = {name for pattern in as_patterns(patterns) for name in names.matching(pattern)}
    return {name: parameter for name, parameter in names.named.items() if name in chosen}


class ParameterNames:
    """A model's parameters by name, looked up once for any number of patterns.

    Attributes:
        named: as ``named_parameters`` returns them.

    Raises:
        TypeError, ValueError: as ``named_parameters``.
    """

    def __init__(self, model: nn.Module) -> None:
        self.named = named_parameters(model)
        first_names = {id(parameter): name for name, parameter in self.named.items()}
        every = unwrap_model(model).named_parameters(remove_duplicate=False)
        self._first_names = [(name, first_names[id(parameter)]) for name, parameter in every]

    def matching(self, pattern: str) -> list[str]:
        """Return the first names of the parameters any of whose names match the shell glob.

        Raises:
            ValueError: if there is none.
        """
        matches = re.compile(translate(pattern)).match
        found = list(dict.fromkeys(first for name, first in self._first_names if matches(name)))
        if not found:
            raise ValueError(f"pattern {pattern!r} matches no parameter; names start with: {_first_names(self.named)}")
        return found


def as_patterns(patterns: str | Iterable[str]) -> tuple[str, ...]:
    """Return one pattern or several as a tuple, or raise where they are none, or no strings.

    Example:
        >>> as_patterns("body.*"), as_patterns(["a.*", "b.*"])
        (('body.*',), ('a.*', 'b.*'))
    """
    check_instance("patterns", patterns, Iterable, "a string or several")
    wanted = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    if not wanted:
        raise ValueError("patterns must have at least one pattern, got none")
    for pattern in wanted:
        if not isinstance(pattern, str):
            raise TypeError(f"patterns must be strings, got {describe(pattern)}")
    return wanted


def trainable_share(model: nn.Module) -> float:
    """Return the share of the model's parameter values that require a gradient, from 0 to 1.

    Example:
        >>> trainable_share(nn.Linear(1, 1).requires_grad_(False))
        0.0
    """
    parameters = named_parameters(model).values()
    total = sum(parameter.numel() for parameter in parameters)
    return sum(parameter.numel() for parameter in parameters if parameter.requires_grad) / max(total, 1)


class FrozenParameters:
    """What ``freeze_parameters`` froze, with all that it takes to put it back as it was.

    Attributes:
        names: every parameter selected, those that were frozen before among them.
    """

    def __init__(self, model: nn.Module, patterns: str | Iterable[str]) -> None:
        wanted = as_patterns(patterns)
        selected = select_parameters(model, wanted)
        self.names = tuple(selected)
        self._model = model
        self._trained = [name for name, parameter in selected.items() if parameter.requires_grad]
        for parameter in selected.values():
            parameter.requires_grad_(False)
            # An optimizer updates whatever has a gradient: momentum and decay would go on moving the weights.
            parameter.grad = None
        self._held = [_HeldInEval(module) for module in _modules_with_statistics(model, wanted, selected)]

    def unfreeze(self) -> None:
        """Put all back as it was. A second call does nothing."""
        trained, self._trained = self._trained, []
        held, self._held = self._held, []
        named = named_parameters(self._model)  # sharding may have put others in their place
        for name in trained:
            named[name].requires_grad_(True)
        for module in held:
            module.release()


def freeze_parameters(model: nn.Module, patterns: str | Iterable[str]) -> FrozenParameters:
    """Keep parameters, and the running statistics of BatchNorm and its kin among them, as they are.

    The parameters lose ``requires_grad`` and their gradient, so that no optimizer moves them. A module with running
    statistics stays in eval mode, whatever ``model.train()`` is called, if all its parameters are frozen, or if it has
    none, if a pattern matches its buffers. Dropout is left alone.

    After DistributedDataParallel wrapped the model, call ``rewrap_model`` too; ``ParameterFreezer`` does.

    Args:
        model: any module; the names are those of the module inside a wrapper.
        patterns: as for ``select_parameters``.

    Raises:
        TypeError, ValueError: as ``select_parameters``.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))
        >>> frozen = freeze_parameters(net, ["0.*", "1.*"])
        >>> net.train()[1].training, [name for name, p in net.named_parameters() if p.requires_grad]
        (False, ['2.weight', '2.bias'])
        >>> unfreeze_parameters(frozen)
        >>> net[1].training, trainable_share(net)
        (True, 1.0)
    """
    return FrozenParameters(model, patterns)


def unfreeze_parameters(frozen: FrozenParameters) -> None:
    """Put back as it was what ``freeze_parameters`` froze; what the user had frozen before stays frozen."""
    check_instance("frozen", frozen, FrozenParameters, "what freeze_parameters returned")
    frozen.unfreeze()


class _HeldInEval:
    """Takes the place of one module's ``train``, which every ``train()`` of a parent calls, and keeps it in eval mode.

    A mode set once would last until the next ``model.train()``: Ignite's supervised trainer calls it in every
    iteration. The module's ``training`` is really False, so that torch.compile sees it and compiles anew.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._asked = module.training
        self._shadowed = module.__dict__.get("train")
        module.train(False)
        module.__dict__["train"] = self

    def __call__(self, mode: bool = True) -> nn.Module:
        self._asked = mode
        for child in self._module.children():
            child.train(mode)
        return self._module

    def release(self) -> None:
        del self._module.__dict__["train"]
        if self._shadowed is not None:
            self._module.__dict__["train"] = self._shadowed
        self._module.train(self._asked)


def _modules_with_statistics(
    model: nn.Module, patterns: tuple[str, ...], selected: dict[str, nn.Parameter]
) -> list[nn.Module]:
    chosen = {id(parameter) for parameter in selected.values()}
    found = []
    for name, module in unwrap_model(model).named_modules():
        buffers = [key for key in _STATISTICS if module._buffers.get(key) is not None]
        if not buffers:
            continue
        own = list(module.parameters(recurse=False))
        if own:
            inside = all(id(parameter) in chosen for parameter in own)
        else:
            path = f"{name}.{buffers[0]}".lstrip(".")
            inside = any(fnmatchcase(path, pattern) for pattern in patterns)
        if inside:
            found.append(module)
    return found


def _first_names(names: Iterable[str], count: int = 5) -> str:
    shown = list(names)
    text = ", ".join(shown[:count])
    return f"{text}, ... ({len(shown)} in all)" if len(shown) > count else text
