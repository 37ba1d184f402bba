"""The optimizers that a trainer's handlers know, and their param groups."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ignite.engine import Engine
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from ignite_tips.core.events import attached_optimizers, completed_updates
from ignite_tips.core.findings import Finding
from ignite_tips.core.roles import ClipsGradients, SetsLearningRates
from ignite_tips.core.wiring import roles_of
from ignite_tips.core.wrapped_optimizers import parameter_ids
from ignite_tips.parameters.options import unread_options

__all__ = [
    "GroupReport",
    "OptimizerReport",
    "find_unread_options",
    "group_name",
    "known_optimizers",
    "report_optimizer",
]


@dataclass(frozen=True)
class GroupReport:
    """One param group.

    Attributes:
        name: its ``"name"``, or its index.
        lr: its learning rate now; None if it has none, as in an optimizer that finds its own.
        parameters: how many numbers its tensors have; None if a lazy module has not given them their shapes yet.
        tensors: how many tensors.
        frozen: the fraction of the numbers that is frozen, 0 to 1; None as for ``parameters``.
        dtypes: of its tensors.
        devices: of its tensors.
    """

    name: str
    lr: float | None
    parameters: int | None
    tensors: int
    frozen: float | None
    dtypes: tuple[str, ...]
    devices: tuple[str, ...]


@dataclass(frozen=True)
class OptimizerReport:
    """One optimizer.

    Attributes:
        name: its class.
        updates: those completed in the run; None if no handler counts them.
        groups: its param groups.
    """

    name: str
    updates: int | None
    groups: tuple[GroupReport, ...]


def known_optimizers(trainer: Engine, saved: Iterable[Any], reachable: Iterable[Any]) -> list[Optimizer]:
    """Return the optimizers of the trainer's handlers, those among ``saved``, and further ones among ``reachable``.

    A further one has a parameter of its own: it does not wrap another.
    """
    clipped = [role.optimizer() for role in roles_of(ClipsGradients, trainer)]
    scheduled = [role.optimizer() for role in roles_of(SetsLearningRates, trainer)]
    listed = [*attached_optimizers(trainer), *clipped, *scheduled, *saved]
    found = {id(each): each for each in listed if isinstance(each, Optimizer)}
    for each in reachable:
        if isinstance(each, Optimizer) and parameter_ids(each) - parameter_ids(*found.values()):
            found[id(each)] = each
    return list(found.values())


def report_optimizer(trainer: Engine, optimizer: Optimizer) -> OptimizerReport:
    """Describe one optimizer."""
    updates = completed_updates(trainer, optimizer) if optimizer in attached_optimizers(trainer) else None
    groups = [_report_group(group_name(optimizer, index), group) for index, group in enumerate(optimizer.param_groups)]
    return OptimizerReport(type(optimizer).__name__, updates, tuple(groups))


def find_unread_options(optimizer: Optimizer) -> Iterator[Finding]:
    """Yield the options of an optimizer's groups that it does not read."""
    kind, known = type(optimizer).__name__, ", ".join(optimizer.defaults)
    for option in unread_options(optimizer):
        names = [group_name(optimizer, i) for i, group in enumerate(optimizer.param_groups) if option in group]
        text = (
            f"{kind} does not read the option {option!r} of its group{'' if len(names) == 1 else 's'} "
            f"{', '.join(names)}; its options are {known}"
        )
        yield Finding("unread option", text)


def group_name(optimizer: Optimizer, index: int) -> str:
    """Return the name of a param group, which another group may have too: its ``"name"``, or its index."""
    return str(optimizer.param_groups[index].get("name", index))


def _report_group(name: str, group: dict[str, Any]) -> GroupReport:
    parameters = group["params"]
    total, frozen = _count(parameters)
    return GroupReport(
        name=name,
        lr=None if group.get("lr") is None else float(group["lr"]),
        parameters=total,
        tensors=len(parameters),
        frozen=frozen,
        dtypes=tuple(sorted({str(parameter.dtype).removeprefix("torch.") for parameter in parameters})),
        devices=tuple(sorted({str(parameter.device) for parameter in parameters})),
    )


def _count(parameters: list[Tensor]) -> tuple[int | None, float | None]:
    """Return how many numbers the tensors have, and the fraction that is frozen; None if a shape is not known yet."""
    if any(map(is_lazy, parameters)):
        return None, None
    total = sum(parameter.numel() for parameter in parameters)
    frozen = sum(parameter.numel() for parameter in parameters if not parameter.requires_grad)
    return total, frozen / max(total, 1)
