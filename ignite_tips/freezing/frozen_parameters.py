"""Freeze a part of a model, and put it back as it was."""

from collections.abc import Iterable

from torch import nn
from torch.optim import Optimizer

from ignite_tips._checks import check_instance
from ignite_tips.freezing.held_statistics import hold_statistics
from ignite_tips.parameters.selection import as_patterns, named_parameters, select_parameters
from ignite_tips.parameters.sharding import lay_out_shards

__all__ = [
    "FreezableParameters",
    "FrozenParameters",
    "freeze_parameters",
    "unfreeze_parameters",
]


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
        self._holds = hold_statistics(model, wanted, selected.values())

    def unfreeze(self) -> None:
        """Put all back as it was. A second call does nothing."""
        trained, self._trained = self._trained, []
        holds, self._holds = self._holds, []
        for hold in holds:
            hold.release()
        named = named_parameters(self._model)  # sharding may have put others in their place
        for name in trained:
            named[name].requires_grad_(True)


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
        >>> net[1].training, net[0].weight.requires_grad
        (True, True)
    """
    return FrozenParameters(model, patterns)


def unfreeze_parameters(frozen: FrozenParameters) -> None:
    """Put back as it was what ``freeze_parameters`` froze; what the user had frozen before stays frozen."""
    check_instance("frozen", frozen, FrozenParameters, "what freeze_parameters returned")
    frozen.unfreeze()


class FreezableParameters:
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
        """Freeze or unfreeze the part; return whether that changed anything."""
        if frozen == self.is_frozen:
            return False
        lay_out_shards(self.model)
        if self._frozen is None:
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
