"""Freeze a part of a model, and restore it."""

import weakref
from collections.abc import Iterable, Mapping

from torch import nn

from ignite_tips._checks import check_instance
from ignite_tips.core.findings import first_few
from ignite_tips.freezing.held_statistics import hold_statistics
from ignite_tips.parameters.selection import (
    ParameterNames,
    as_patterns,
    named_parameters,
    select_parameters,
    unwrap_model,
)
from ignite_tips.parameters.sharding import lay_out_shards

__all__ = [
    "FreezableParameters",
    "FrozenParameters",
    "freeze_parameters",
    "unfreeze_parameters",
]


class FrozenParameters:
    """Parameters that ``freeze_parameters`` froze, and what is needed to restore them.

    Attributes:
        names: all selected parameters, including those that were frozen before.
        trained: those that were not frozen before, and will be unfrozen.
        is_over: whether they were unfrozen.

    Args:
        model: bare or wrapped.
        patterns: also for buffers, of modules without parameters.
        selected: the parameters that the patterns select.
    """

    def __init__(self, model: nn.Module, patterns: tuple[str, ...], selected: Mapping[str, nn.Parameter]) -> None:
        self.names = tuple(selected)
        self.is_over = False
        self._model = weakref.ref(unwrap_model(model))  # weakly: left_frozen.py keeps this for the model
        self.trained = {name for name, parameter in selected.items() if parameter.requires_grad}
        for parameter in selected.values():
            parameter.requires_grad_(False)
            # An optimizer updates whatever has a gradient, so momentum and weight decay would move the parameter.
            parameter.grad = None
        self._holds = hold_statistics(model, patterns, selected.values())

    @property
    def changed_nothing(self) -> bool:
        """Whether all of the parameters were frozen before, so that they stay frozen."""
        return not self.trained

    def unfreeze(self) -> None:
        """Restore everything. A second call does nothing."""
        trained, self.trained = self.trained, set()
        holds, self._holds = self._holds, []
        self.is_over = True
        for hold in holds:
            hold.release()
        for name, parameter in self.parameters.items():
            if name in trained:
                parameter.requires_grad_(True)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that are in the model now, by name; none if it is gone."""
        model = self._model()
        named = {} if model is None else named_parameters(model)  # fully_shard may have replaced the parameters
        return {name: named[name] for name in self.names if name in named}


def freeze_parameters(model: nn.Module, patterns: str | Iterable[str]) -> FrozenParameters:
    """Freeze parameters, and with them statistics such as BatchNorm's running mean.

    The parameters lose ``requires_grad`` and their gradient, so no optimizer moves them. A module with statistics stays
    in eval mode through every ``model.train()`` if all its own parameters are frozen; one without parameters, if a
    pattern matches its buffers. Dropout is left alone. A copy or a pickle of the model is an ordinary model: only
    ``requires_grad`` is copied, and its ``train()`` works as usual.

    Statistics are: buffers named ``running_mean`` or ``running_var``, both kinds of spectral norm, and any other
    parametrization with buffers. Other buffers that a forward pass changes, such as those of
    ``torch.ao.quantization``'s observers, go on changing here; ``ParameterFreezer`` and ``GradualUnfreezer`` put them
    back after each iteration.

    If DistributedDataParallel already wraps the model, call ``rewrap_model`` too; ``ParameterFreezer`` does.

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
        >>> net[1].training, net[0].weight.requires_grad
        (True, True)
    """
    return FrozenParameters(model, as_patterns(patterns), select_parameters(model, patterns))


def unfreeze_parameters(frozen: FrozenParameters) -> None:
    """Undo ``freeze_parameters``; what you had frozen before stays frozen.

    Undo several freezes of one parameter in reverse order.
    """
    check_instance("frozen", frozen, FrozenParameters, "what freeze_parameters returned")
    frozen.unfreeze()


class FreezableParameters:
    """The parameters that patterns select in a model.

    Attributes:
        model: the model as given.
        patterns: the patterns, as a tuple.
        names: the names of the parameters that they select.
        held: what this part has frozen; None if it has not. Another trainer's handler may have unfrozen it since.

    Args:
        names: the names of the model's parameters.
        patterns: as for ``select_parameters``.
        argument: the name of the argument that has the patterns, for errors.

    Raises:
        TypeError, ValueError: as ``select_parameters``.
    """

    def __init__(self, names: ParameterNames, patterns: str | Iterable[str], argument: str = "patterns") -> None:
        self.patterns = as_patterns(patterns, argument)
        self.model = names.model
        self.names = tuple(names.select(self.patterns))
        self.held: FrozenParameters | None = None

    @property
    def is_frozen(self) -> bool:
        """Whether the part is frozen now."""
        return self.held is not None and not self.held.is_over

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that are in the model now; ``fully_shard`` may have replaced earlier ones."""
        lay_out_shards(self.model)
        return self.find_in(named_parameters(self.model))

    def find_in(self, named: Mapping[str, nn.Parameter]) -> list[nn.Parameter]:
        """Return the part's parameters from all that the model has now.

        Raises:
            RuntimeError: if the model no longer has one, as after a layer was replaced or parametrized.
        """
        gone = [name for name in self.names if name not in named]
        if gone:
            raise RuntimeError(
                f"model must have the parameters that it had when the freezing handler was made, but no longer has "
                f"{first_few(gone)}; make the handler after all changes to the model"
            )
        return [named[name] for name in self.names]

    @property
    def is_frozen_by_hand(self) -> bool:
        """Whether other code has frozen all of the part, so that unfreezing changes nothing."""
        if self.held is not None and not self.held.is_over:
            return bool(self.names) and self.held.changed_nothing
        return bool(self.names) and not any(parameter.requires_grad for parameter in self.parameters)

    def set_frozen(self, frozen: bool) -> bool:
        """Freeze or unfreeze the part; return whether that changed anything."""
        is_change = frozen != self.is_frozen
        if is_change:
            lay_out_shards(self.model)
        if not frozen and self.held is not None:
            self.held.unfreeze()
            self.held = None
        elif is_change:
            self.held = FrozenParameters(self.model, self.patterns, dict(zip(self.names, self.parameters, strict=True)))
        return is_change
