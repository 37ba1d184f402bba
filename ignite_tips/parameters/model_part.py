"""A part of a model that a handler freezes and unfreezes, alone, and with every wrapper told."""

import weakref
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.weak import WeakIdKeyDictionary

from ignite_tips.parameters.selection import FrozenParameters, as_patterns, freeze_parameters, select_parameters
from ignite_tips.parameters.shards import check_has_whole_parameters, lay_out_shards
from ignite_tips.rewrapping import check_rewrappable, find_wrappers, rewrap_model

__all__ = ["ModelPart", "check_freezable", "tell_wrappers"]


class ModelPart:
    """The parameters that patterns select in a model.

    Attributes:
        model: the model as given.
        patterns: the patterns, as a tuple.
        names: the names of the parameters that they select.

    Args:
        model: bare or wrapped.
        patterns: as for ``select_parameters``.
        argument: what the patterns were given as, for errors.

    Raises:
        TypeError, ValueError: as ``select_parameters``.
    """

    def __init__(self, model: nn.Module, patterns: str | Iterable[str], argument: str = "patterns") -> None:
        self.patterns = as_patterns(patterns, argument)
        self.names = tuple(select_parameters(model, self.patterns))
        self.model = model
        self._frozen: FrozenParameters | None = None

    @property
    def is_frozen(self) -> bool:
        """Whether the part is frozen now."""
        return self._frozen is not None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters, as they are in the model now."""
        lay_out_shards(self.model)
        return list(select_parameters(self.model, self.patterns).values())

    def set_frozen(self, frozen: bool) -> bool:
        """Freeze or unfreeze the part; return whether that changed anything. Then call ``tell_wrappers``."""
        if frozen == self.is_frozen:
            return False
        lay_out_shards(self.model)
        if self._frozen is None:
            check_freezable(self.model, self.parameters)
            self._frozen = freeze_parameters(self.model, self.patterns)
        else:
            self._frozen.unfreeze()
            self._frozen = None
        return True

    def check_optimizer(self, optimizer: Optimizer) -> None:
        """Raise ValueError if a parameter is in none of the optimizer's groups."""
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        missing = [
            name for name, parameter in zip(self.names, self.parameters, strict=True) if id(parameter) not in held
        ]
        if missing:
            raise ValueError(
                f"optimizer must have a group for each parameter to be unfrozen, but has none for: "
                f"{', '.join(missing)}; make every group up front, as param_groups(model, ...) does"
            )

    def claim(self, owner: object) -> Callable[[], None]:
        """Keep other handlers off these parameters; the function returned lets go of them.

        Raises:
            ValueError: if another handler has claimed one.
        """
        check_freezable(self.model, self.parameters)
        claimed = self.parameters
        for name, parameter in zip(self.names, claimed, strict=True):
            other = _claims[parameter]() if parameter in _claims else None
            if other is not None and other is not owner:
                raise ValueError(
                    f"parameter {name!r} must have one handler that freezes it, but an attached "
                    f"{type(other).__name__} has it already; give them patterns that do not overlap, or detach it"
                )
        reference = weakref.ref(owner)
        for parameter in claimed:
            _claims[parameter] = reference

        def release() -> None:
            for parameter in claimed:
                if parameter in _claims and _claims[parameter] is reference:
                    del _claims[parameter]

        return release


def tell_wrappers(parts: Sequence[ModelPart]) -> None:
    """Let every DistributedDataParallel wrapper around the parts follow a freeze or unfreeze. A collective call."""
    for wrapper in find_wrappers(parts[0].model, [parameter for part in parts for parameter in part.parameters]):
        rewrap_model(wrapper)


def check_freezable(model: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
    """Raise TypeError or RuntimeError for a model that cannot follow a freeze."""
    check_has_whole_parameters(model)
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise TypeError("model must not be a ScriptModule, whose modules take no changes; freeze before scripting")
    for wrapper in find_wrappers(model, parameters):
        check_rewrappable(wrapper)


_claims: WeakIdKeyDictionary = WeakIdKeyDictionary()
