"""Warnings that point at the user's line."""

import sys
import warnings

__all__ = ["warn_user"]

_LIBRARIES = {"ignite_tips", "ignite", "torch"}


def warn_user(message: str) -> None:
    """Warn at the innermost line outside this package, Ignite and torch, such as the user's ``trainer.run(...)``.

    A fixed ``stacklevel`` cannot do so: how many calls lie between depends on the event and on what wraps a handler.
    """
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _LIBRARIES:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
