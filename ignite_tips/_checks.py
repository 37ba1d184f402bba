"""Argument checks: one phrasing for every error.

The sentence is always: argument, requirement, value got; TypeError for a type, ValueError for a value.
"""

import operator
from collections.abc import Mapping
from numbers import Real
from typing import Any

__all__ = ["check_choice", "check_instance", "check_integer", "check_keys", "check_number", "describe"]

_BOUNDS = {"gt": (">", operator.gt), "ge": (">=", operator.ge), "lt": ("<", operator.lt), "le": ("<=", operator.le)}


def describe(value: object) -> str:
    """Return how an error message shows ``value``: its repr, shortened, with its type where that tells more.

    Example:
        >>> describe(-1.0), describe("x")
        ('-1.0', "'x' (str)")
    """
    text = " ".join(repr(value).split())  # the repr of a module or an optimizer has many lines
    if len(text) > 80:
        text = text[:77] + "..."
    plain_number = isinstance(value, Real) and not isinstance(value, bool)
    return text if plain_number or value is None else f"{text} ({type(value).__name__})"


def check_instance(name: str, value: object, types: type | tuple[type, ...], what: str) -> None:
    """Raise TypeError unless ``value`` is an instance of ``types``, which ``what`` puts in words.

    Example:
        >>> check_instance("model", 3, str, "a torch.nn.Module")
        Traceback (most recent call last):
        TypeError: model must be a torch.nn.Module, got 3 (int)
    """
    if not isinstance(value, types):
        kind = f"{describe(value)} (int)" if type(value) is int else describe(value)
        raise TypeError(f"{name} must be {what}, got {kind}")


def check_number(name: str, value: object, **bounds: float) -> float:
    """Return ``value`` as given, or raise unless it is a real number within the bounds gt, ge, lt, le.

    NaN lies within no bound, and a bool is no number.

    Example:
        >>> check_number("max_norm", -1.0, gt=0)
        Traceback (most recent call last):
        ValueError: max_norm must be > 0, got -1.0
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {describe(value)}")
    if value != value or not all(_BOUNDS[key][1](value, bound) for key, bound in bounds.items()):
        required = " and ".join(f"{_BOUNDS[key][0]} {bound:g}" for key, bound in bounds.items())
        raise ValueError(f"{name} must be {required or 'a number'}, got {describe(value)}")
    return value  # type: ignore[return-value]  # a Real behaves as a float


def check_integer(name: str, value: object, **bounds: float) -> int:
    """Return ``value`` as given, or raise unless it is an int within the bounds gt, ge, lt, le.

    Example:
        >>> check_integer("every", 1.5, ge=1)
        Traceback (most recent call last):
        TypeError: every must be an integer, got 1.5
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {describe(value)}")
    check_number(name, value, **bounds)
    return value


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless ``value`` is one of ``choices``.

    Example:
        >>> check_choice("on_nonfinite", "ignore", ("raise", "skip"))
        Traceback (most recent call last):
        ValueError: on_nonfinite must be 'raise' or 'skip', got 'ignore'
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {describe(value)}")
    if value not in choices:
        *rest, last = (repr(choice) for choice in choices)
        required = f"{', '.join(rest)} or {last}" if rest else last
        raise ValueError(f"{name} must be {required}, got {value!r}")


def check_keys(name: str, state: object, required: tuple[str, ...]) -> Mapping[str, Any]:
    """Return ``state`` as given, or raise unless it is a mapping that has exactly the ``required`` keys.

    Example:
        >>> check_keys("GradualUnfreezer state", {"a": 1}, ("stage",))
        Traceback (most recent call last):
        ValueError: GradualUnfreezer state must have the keys stage, got a
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"{name} must be a mapping, got {describe(state)}")
    if set(state) != set(required):
        got = ", ".join(str(key) for key in state) or "none"
        raise ValueError(f"{name} must have the keys {', '.join(required)}, got {got}")
    return state
