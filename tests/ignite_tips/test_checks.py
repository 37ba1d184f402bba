"""The one phrasing of every error."""

import enum
import sys
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from math import inf
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ignite_tips._checks import check_choice, check_instance, check_integer, check_keys, check_number, describe


class Whole(enum.IntEnum):
    """An int of a class of its own."""

    THREE = 3


CASES: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, float], type[Exception], str]] = [
    (check_number, ("lr", "x"), {}, TypeError, "lr must be a number, got 'x' (str)"),
    (check_number, ("lr", True), {}, TypeError, "lr must be a number, got True (bool)"),
    (check_number, ("lr", float("nan")), {}, ValueError, "lr must be a number, got nan"),
    (check_number, ("lr", float("nan")), {"gt": 0}, ValueError, "lr must be > 0, got nan"),
    (check_number, ("p", 101), {"gt": 0, "le": 100}, ValueError, "p must be > 0 and <= 100, got 101"),
    (check_number, ("p", float("inf")), {"gt": 0, "lt": inf}, ValueError, "p must be finite and > 0, got inf"),
    (check_number, ("p", np.float32(0)), {"gt": 0}, ValueError, f"p must be > 0, got {np.float32(0)!r}"),
    (check_number, ("p", Decimal("NaN")), {"gt": 0}, ValueError, "p must be > 0, got Decimal('NaN')"),
    (check_number, ("p", np.True_), {}, TypeError, f"p must be a number, got {np.True_!r} ({type(np.True_).__name__})"),
    (check_number, ("p", torch.tensor(True)), {}, TypeError, "p must be a number, got tensor(True) (Tensor)"),
    (check_number, ("p", torch.ones(2)), {}, TypeError, "p must be a number, got tensor([1., 1.]) (Tensor)"),
    (check_number, ("p", np.str_("1")), {}, TypeError, f"p must be a number, got {np.str_('1')!r} (str_)"),
    (check_number, ("p", 1j), {}, TypeError, "p must be a number, got 1j (complex)"),
    (check_integer, ("n", np.float64(1)), {}, TypeError, f"n must be an integer, got {np.float64(1)!r}"),
    (check_integer, ("n", torch.tensor(1.0)), {}, TypeError, "n must be an integer, got tensor(1.) (Tensor)"),
    (check_number, ("p", 2**63), {"gt": 0}, ValueError, "p must fit into 64 bits, got 9223372036854775808"),
    (check_integer, ("n", 10**5000), {}, ValueError, "n must fit into 64 bits, got an instance of int"),
    (check_integer, ("n", 1.0), {}, TypeError, "n must be an integer, got 1.0"),
    (check_integer, ("n", 0), {"ge": 1}, ValueError, "n must be >= 1, got 0"),
    (check_choice, ("mode", "a", ("min", "max", "off")), {}, ValueError, "mode must be 'min', 'max' or 'off', got 'a'"),
    (check_choice, ("mode", None, ("min",)), {}, TypeError, "mode must be a string, got None"),
    (check_instance, ("engine", 3, str, "an Engine"), {}, TypeError, "engine must be an Engine, got 3 (int)"),
    (check_keys, ("state", [], ("a",)), {}, TypeError, "state must be a mapping, got [] (list)"),
    (check_keys, ("state", {"b": 1}, ("a",)), {}, ValueError, "state must have the keys a, got b"),
    (check_keys, ("state", {}, ("a", "b")), {}, ValueError, "state must have the keys a, b, got none"),
]


@pytest.mark.parametrize(("check", "arguments", "bounds", "error", "sentence"), CASES, ids=[case[-1] for case in CASES])
def test_each_error_names_argument_requirement_and_value(
    check: Callable[..., Any],
    arguments: tuple[Any, ...],
    bounds: dict[str, float],
    error: type[Exception],
    sentence: str,
) -> None:
    """Each error is exactly this sentence."""
    with pytest.raises(error) as caught:
        check(*arguments, **bounds)
    assert str(caught.value) == sentence


@given(st.floats(allow_nan=False) | st.integers(-sys.maxsize, sys.maxsize))
def test_numbers_within_bounds_come_back_as_they_are(value: float) -> None:
    """An int stays an int and a float a float; a number is returned if, and only if, it is within the bounds."""
    if value > 0:
        number = check_number("x", value, gt=0)
        assert number == value
        assert type(number) is type(value)
    else:
        with pytest.raises(ValueError, match="x must be > 0"):
            check_number("x", value, gt=0)


NUMBERS = [
    np.float32(0.5),
    np.float64(0.5),
    np.array(0.5),
    np.array([0.5]),
    torch.tensor(0.5),
    torch.tensor([0.5], dtype=torch.bfloat16),
    torch.tensor(0.5, requires_grad=True),
    Fraction(1, 2),
    Decimal("0.5"),
]
INTEGERS = [np.int64(3), np.uint8(3), np.array(3), torch.tensor(3), torch.tensor([3], dtype=torch.int32), Whole(3)]


@pytest.mark.parametrize("value", NUMBERS, ids=repr)
def test_a_number_of_any_kind_becomes_pythons_own(value: Any) -> None:
    """What float() takes is a number, but no integer."""
    number = check_number("x", value, gt=0)
    assert (type(number), number) == (float, 0.5)
    with pytest.raises(TypeError, match="x must be an integer, got"):
        check_integer("x", value)


@pytest.mark.parametrize("value", INTEGERS, ids=repr)
def test_an_integer_of_any_kind_becomes_pythons_own(value: Any) -> None:
    """It is a number, too."""
    for number in (check_integer("x", value, ge=1), check_number("x", value, ge=1)):
        assert (type(number), number) == (int, 3)


def test_long_values_are_shortened() -> None:
    """An error is one line however large the value is, and however many lines its repr has."""
    assert len(describe("x" * 1000)) < 100
    assert "\n" not in describe(nn.Sequential(nn.ReLU(), nn.ReLU()))
