"""Domains of arguments: which values are inside, and which are outside."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from ignite.engine import Engine, Events
from torch import nn
from torch.optim import SGD

from tests.bad_input.scene import Own

__all__ = ["ODD", "Domain", "integer", "just", "number", "one_of", "optional", "some"]

# Neither numbers, nor names, nor parts of a training job; each argument's domain removes those that it allows.
ODD = [None, True, False, 0, 1, -1, 1.5, math.nan, math.inf, -math.inf, 2**63, 10**400, 1j, Decimal(1), Fraction(1, 2)]
ODD += [
    np.float32(1.0),
    np.int64(1),
    np.array([1.0]),
    torch.tensor(1.0),
    "",
    "1",
    "x",
    b"x",
    [],
    [None],
    (),
    {},
    {1: 2},
]
ODD += [object(), object, len, range(3), Events, Events.STARTED, Own.SOMETHING, SGD, Engine, nn.Linear]

_ARRAYS = (np.ndarray, torch.Tensor)
_numbers = st.floats(allow_nan=True) | st.integers()


@dataclass(frozen=True)
class Domain:
    """The values that an argument accepts, and strategies for values inside and, besides ``ODD``, outside."""

    admits: Callable[[Any], bool]
    within: st.SearchStrategy[Any]
    more: st.SearchStrategy[Any] = field(default_factory=st.nothing)


def _is_float(value: Any) -> bool:
    is_number = isinstance(value, Real | Decimal) or (isinstance(value, _ARRAYS) and math.prod(value.shape) == 1)
    small = not isinstance(value, int) or abs(value) < 2**63
    return is_number and not isinstance(value, bool) and small


def _is_int(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and abs(value) < 2**63


def number(least: float = -math.inf, most: float = math.inf, *, above: bool = True, below: bool = False) -> Domain:
    """Numbers from ``least`` to ``most``; ``above`` and ``below`` exclude the bound itself."""

    def admits(value: Any) -> bool:
        if not _is_float(value):
            return False
        value = value.item() if isinstance(value, _ARRAYS) else value
        return (value > least if above else value >= least) and (value < most if below else value <= most)

    within = st.floats(max(least, 0), min(most, 1e30), exclude_min=above, exclude_max=below and most < 1e30)
    kinds = [kind(min(most, 1.0) / 2) for kind in (np.float64, np.float32, np.array, torch.tensor, Fraction, Decimal)]
    return Domain(admits, within | st.sampled_from(kinds), _numbers)


def integer(least: int) -> Domain:
    """Integers of 64 bits that are at least ``least``."""
    kinds = st.sampled_from([np.int64(max(least, 99)), np.uint8(max(least, 99)), torch.tensor(max(least, 99))])
    return Domain(lambda value: _is_int(value) and value >= least, st.integers(least, 99) | kinds, _numbers)


def one_of(*choices: Any) -> Domain:
    """One of a few values, of the same type."""
    admits = [(type(choice), choice) for choice in choices]
    text = st.text(max_size=5) if any(isinstance(choice, str) for choice in choices) else st.nothing()
    return Domain(
        lambda value: any(type(value) is kind and value == choice for kind, choice in admits),
        st.sampled_from(choices),
        text,
    )


def just(value: Any, *others: Any) -> Domain:
    """The only object that fits the rest of the call, and others of its kind that do not."""
    return Domain(lambda given: given is value, st.just(value), st.sampled_from(others) if others else st.nothing())


def some(*values: Any, but: tuple[Any, ...] = (), and_also: Callable[[Any], bool] = lambda value: False) -> Domain:
    """Values of a rare form; ``and_also`` is true for odd values that happen to have it too."""
    return Domain(and_also, st.sampled_from(values), st.sampled_from(but) if but else st.nothing())


def optional(domain: Domain) -> Domain:
    """The domain and None."""
    return Domain(lambda value: value is None or domain.admits(value), st.none() | domain.within, domain.more)
