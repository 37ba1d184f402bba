"""Options of param groups that nothing reads: an optimizer keeps what it does not know, and never complains."""

import inspect
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from types import CodeType
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ignite_tips._warnings import warn_user

__all__ = ["unread_options", "warn_of_unknown"]

_OURS = {"name"}
_CLOSE = 0.75  # likeness from which one option is probably meant for another


def warn_of_unknown(options: Iterable[str]) -> None:
    """Warn about each option that no optimizer takes: none of torch's, and no other whose class is loaded."""
    known = _known_options()
    for option in sorted(set(options) - known):
        close = get_close_matches(option.lower(), sorted(known), n=1, cutoff=_CLOSE)
        meant = f"did you mean {close[0]!r}?" if close else "names are as in torch.optim: lr, weight_decay, ..."
        warn_user(f"no optimizer has the option {option!r}, so it is ignored; {meant}")


def unread_options(optimizer: Optimizer) -> list[str]:
    """Return the options in an optimizer's groups that neither it nor a scheduler reads.

    What they read is among their defaults, or a string in the code of their classes, such as ``group["initial_lr"]``.
    """
    read = _OURS | optimizer.defaults.keys() | _strings_in(type(optimizer))
    kept_by_schedulers = set().union(*map(_strings_in, _subclasses(LRScheduler))) - _known_options()
    options = {option for group in optimizer.param_groups for option in group}
    return sorted(options - read - kept_by_schedulers)


def _known_options() -> set[str]:
    return _OURS.union(*(inspect.signature(kind).parameters for kind in _subclasses(Optimizer)))


def _subclasses(kind: Any) -> Iterator[Any]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def _strings_in(kind: type) -> set[str]:
    """Return the string constants in the code of a class's methods, its bases' included."""
    members = [inspect.unwrap(member) for base in kind.__mro__ for member in vars(base).values() if callable(member)]
    codes = [member.__code__ for member in members if hasattr(member, "__code__")]
    return {constant for code in codes for constant in _constants(code) if isinstance(constant, str)}


def _constants(code: CodeType) -> Iterator[Any]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _constants(constant)
        else:
            yield constant
