"""Who writes which names where, so that no two curves are mixed into one in silence."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass

from ignite_tips.tensorboard.group_options import GroupOptions

__all__ = ["claim_names"]


@dataclass(frozen=True, eq=False)
class _Claim:
    """Weakly all of it: neither a logger nor a handler is kept alive by what it wrote."""

    options: weakref.ref[GroupOptions]
    logger: weakref.ref[object] | None  # None for the trainer's metrics


_claims: weakref.WeakKeyDictionary[object, list[_Claim]] = weakref.WeakKeyDictionary()


def claim_names(options: GroupOptions, trainer: object, logger: object | None) -> Callable[[], None]:
    """Note that ``options`` are written to ``logger`` while ``trainer`` runs; the function returned ends that.

    Raises:
        ValueError: if another's names are among those that are written there in the same run.
    """
    # A second trainer may go on with the logger where a first one ended: its names are free.
    claims = _claims.setdefault(trainer, [])
    own = options.names()
    for claim in claims:
        other = claim.options()
        if other is None or other is options or (claim.logger and claim.logger()) is not logger:
            continue
        taken = set(other.names())
        name = next((name for name in own if name in taken), None)
        if name is not None:
            where = "the trainer's metrics" if logger is None else f"this {type(logger).__name__}"
            raise ValueError(
                f"each LearningRateLogger must write names of its own, but another one attached to the trainer writes "
                f"{name!r} to {where} already; give one of them tag=..., or keep the first and call its detach()"
            )
    new = _Claim(weakref.ref(options), None if logger is None else weakref.ref(logger))
    claims.append(new)
    return lambda: claims.remove(new)
