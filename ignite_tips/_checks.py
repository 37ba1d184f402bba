"""Argument checks: one phrasing for every error.

The sentence is always: argument, requirement, value got. TypeError for a type, ValueError for a value.
"""

import operator
import sys
from collections.abc import Mapping
from enum import Enum
from math import inf
from numbers import Real
from typing import Any

__all__ = [
    "as_number",
    "check_callable",
    "check_choice",
    "check_instance",
    "check_integer",
    "check_iterable",
    "check_keys",
    "check_names",
    "check_number",
    "check_tag",
    "describe",
]

_BOUNDS = {"gt": (">", operator.gt), "ge": (">=", operator.ge), "lt": ("<", operator.lt), "le": ("<=", operator.le)}


def describe(value: object) -> str:
    """Return ``value`` as an error message shows it: its repr, shortened, with its type where that helps.

    A class is shown by its name. So is an instance whose repr has several lines (a module) or an address.

    Example:
        >>> describe(-1.0), describe("x"), describe(dict), describe(object())
        ('-1.0', "'x' (str)", 'the class dict', 'an instance of object')
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    text = _shorten(value)
    if text is None:
        return f"an instance of {type(value).__name__}"
    plain_number = isinstance(value, Real) and not isinstance(value, bool)
    says_type = plain_number or value is None or text.startswith(f"{type(value).__name__}(")
    return text if says_type else f"{text} ({type(value).__name__})"


def _shorten(value: object) -> str | None:
    text: str | None
    try:
        text = repr(value)
    except Exception:  # a user's own repr, an int with thousands of digits, an event under Python 3.11.0 to 3.11.3
        text = _repr_of_events(value)
        if text is None:
            return None
    plain = isinstance(value, str | list | tuple | dict)
    if not plain and ("\n" in text or " at 0x" in text):
        return None
    text = " ".join(text.split())
    return text if len(text) <= 80 else text[:77] + "..."


def _repr_of_events(value: object) -> str | None:
    """Return the repr that one of Ignite's events, or a list of them, has under any Python."""
    if isinstance(value, list):
        parts = [_repr_of_events(part) for part in value]
        return None if None in parts else f"[{', '.join(map(str, parts))}]"
    return f"{type(value).__name__}.{value.name}" if isinstance(value, Enum) else None


def _describe_kind(value: object) -> str:
    return f"{describe(value)} (int)" if type(value) is int else describe(value)


def check_instance(name: str, value: object, types: type | tuple[type, ...], what: str) -> None:
    """Raise TypeError unless ``value`` is an instance of ``types``; ``what`` names them in words.

    Example:
        >>> check_instance("model", 3, str, "a torch.nn.Module")
        Traceback (most recent call last):
        TypeError: model must be a torch.nn.Module, got 3 (int)
    """
    if not isinstance(value, types):
        raise TypeError(f"{name} must be {what}, got {_describe_kind(value)}")


def as_number(value: object) -> int | float | None:
    """Return an int or a float with the value of any kind of number; None for anything else, and for a bool.

    A number is what ``float()`` takes: NumPy's scalars, Fraction, Decimal, tensors and arrays of one element. Strings
    are none. Python's own type comes back, because pickle with ``weights_only`` and some calls of torch take no other.

    Example:
        >>> from fractions import Fraction
        >>> as_number(Fraction(1, 4)), as_number(torch.tensor(3)), as_number(True), as_number("1")
        (0.25, 3, None, None)
    """
    try:
        plain: Any = value.item() if hasattr(value, "item") else value
        if isinstance(plain, bool | str | bytes | bytearray):
            return None
        return int(plain) if isinstance(plain, int) else float(plain)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last by tensors: of several elements, of meta
        return None


def check_number(name: str, value: object, **bounds: float) -> float:
    """Return ``value`` as an int or a float, or raise unless it is a number within the bounds gt, ge, lt, le.

    NaN is within no bound, and a bool is not a number; see ``as_number`` for what is.

    Example:
        >>> check_number("max_norm", -1.0, gt=0)
        Traceback (most recent call last):
        ValueError: max_norm must be > 0, got -1.0
    """
    number = as_number(value)
    if number is None:
        raise TypeError(f"{name} must be a number, got {describe(value)}")
    if isinstance(number, int) and abs(number) > sys.maxsize:
        raise ValueError(f"{name} must fit into 64 bits, got {describe(value)}")
    if number != number or not all(_BOUNDS[key][1](number, bound) for key, bound in bounds.items()):
        words = [f"{_BOUNDS[key][0]} {bound:g}" for key, bound in bounds.items() if bound != inf]
        required = " and ".join((["finite"] if inf in bounds.values() else []) + words)
        raise ValueError(f"{name} must be {required or 'a number'}, got {describe(value)}")
    return number


def check_integer(name: str, value: object, **bounds: float) -> int:
    """Return ``value`` as an int, or raise unless it is an integer of any kind within the bounds gt, ge, lt, le.

    Example:
        >>> check_integer("every", 1.5, ge=1)
        Traceback (most recent call last):
        TypeError: every must be an integer, got 1.5
    """
    number = as_number(value)
    if not isinstance(number, int):
        raise TypeError(f"{name} must be an integer, got {describe(value)}")
    check_number(name, value, **bounds)
    return number


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
        raise ValueError(f"{name} must be {required}, got {_shorten(value)}")


def check_callable(name: str, value: object, what: str) -> None:
    """Raise TypeError unless ``value`` is callable; ``what`` describes it in words.

    Example:
        >>> check_callable("output", "out.txt", "a function of the text")
        Traceback (most recent call last):
        TypeError: output must be a function of the text, got 'out.txt' (str)
    """
    if not callable(value):
        raise TypeError(f"{name} must be {what}, got {_describe_kind(value)}")


def check_names(name: str, names: object) -> tuple[str, ...]:
    """Return one string, or an iterable of strings, as a tuple.

    Example:
        >>> check_names("patterns", "body.*"), check_names("patterns", ["a.*", "b.*"])
        (('body.*',), ('a.*', 'b.*'))
        >>> check_names("patterns", 3)
        Traceback (most recent call last):
        TypeError: patterns must be a string or several, got 3 (int)
    """
    if isinstance(names, str):
        return (names,)
    check_iterable(name, names, "a string or several")
    found: tuple[Any, ...] = tuple(names)  # type: ignore[arg-type]  # checked above
    for member in found:
        if not isinstance(member, str):
            raise TypeError(f"{name} must be strings, got {_describe_kind(member)}")
    return found


def check_iterable(name: str, value: object, what: str) -> None:
    """Raise TypeError unless ``value`` is iterable and not a string, bytes or a mapping.

    Example:
        >>> check_iterable("metrics", 1.0, "a list of numbers")
        Traceback (most recent call last):
        TypeError: metrics must be a list of numbers, got 1.0
    """
    try:
        iter(value)  # type: ignore[call-overload]  # a 0-dim tensor has an __iter__ that raises
    except TypeError:
        is_several = False
    else:
        is_several = not isinstance(value, str | bytes | bytearray | Mapping)
    if not is_several:
        raise TypeError(f"{name} must be {what}, got {_describe_kind(value)}")


def check_tag(tag: object) -> None:
    """Raise unless ``tag`` is None or a string that is not empty.

    Example:
        >>> check_tag("")
        Traceback (most recent call last):
        ValueError: tag must be None or a string that is not empty, got ''
    """
    check_instance("tag", tag, (str, type(None)), "a string or None")
    if tag == "":
        raise ValueError("tag must be None or a string that is not empty, got ''")


def check_keys(name: str, state: object, required: tuple[str, ...]) -> Mapping[str, Any]:
    """Return ``state`` as given, or raise unless it is a mapping with exactly the ``required`` keys.

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
