"""What handlers have left frozen after a trainer's run, for the handler of another trainer to release.

A model outlives its trainers, as in a notebook whose trainer cell is run again, and the earlier handler may be gone.
"""

import weakref
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ignite.engine import Engine
from torch import nn

from ignite_tips.core.ignite_internals import has_open_run
from ignite_tips.freezing.frozen_parameters import FrozenParameters
from ignite_tips.parameters.selection import unwrap_model

__all__ = ["frozen_by_handlers", "release_left_frozen", "remember_frozen"]


class _Left(NamedTuple):
    frozen: FrozenParameters
    trainer: weakref.ref[Engine]


_left: weakref.WeakKeyDictionary[nn.Module, list[_Left]] = weakref.WeakKeyDictionary()


def remember_frozen(trainer: Engine, model: nn.Module, frozen: FrozenParameters) -> None:
    """Remember what a handler of ``trainer`` has frozen in ``model``."""
    entries = _left.setdefault(unwrap_model(model), [])
    entries[:] = [entry for entry in entries if not entry.frozen.is_over]
    entries.append(_Left(frozen, weakref.ref(trainer)))


def frozen_by_handlers(model: nn.Module) -> set[str]:
    """Return the names of the parameters that handlers have frozen and will unfreeze."""
    entries = _left.get(unwrap_model(model), [])
    return {name for entry in entries if not entry.frozen.is_over for name in entry.frozen.trained}


def release_left_frozen(trainer: Engine, get_parameters: Callable[[], Iterable[nn.Parameter]]) -> bool:
    """Unfreeze what other trainers have left frozen, if it is among the parameters. Return whether there was any.

    What a trainer has frozen whose run is not over stays frozen.
    """
    left = [
        entry.frozen
        for entries in _left.values()
        for entry in entries
        if not entry.frozen.is_over and _may_be_released(entry.trainer(), trainer)
    ]
    if not left:
        return False
    wanted = {id(parameter) for parameter in get_parameters()}
    found = [frozen for frozen in left if any(id(parameter) in wanted for parameter in frozen.parameters.values())]
    for frozen in found:
        frozen.unfreeze()
    return bool(found)


def _may_be_released(owner: Engine | None, trainer: Engine) -> bool:
    return owner is None or (owner is not trainer and not has_open_run(owner))
