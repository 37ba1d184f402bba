"""One number for a validation, in a single process. Several ranks: test_plateau_stepper.py."""

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine

from ignite_tips.schedules.validation_metric import common_metric


def _evaluator(**metrics: Any) -> Engine:
    evaluator = Engine(lambda engine, batch: None)
    evaluator.state.metrics = metrics
    return evaluator


@pytest.mark.parametrize(
    "value",
    [
        0.5,
        np.float32(0.5),
        np.float64(0.5),
        np.array(0.5),
        torch.tensor(0.5),
        torch.tensor([0.5], dtype=torch.float16),
        Fraction(1, 2),
        Decimal("0.5"),
    ],
    ids=repr,
)
def test_any_number_is_read(value: Any) -> None:
    """Numbers of Python, NumPy and torch are read as a float."""
    number = common_metric(_evaluator(loss=value), "loss", needed_by="test")
    assert number == 0.5
    assert type(number) is float


def test_nan_and_infinity_are_returned() -> None:
    """NaN and infinity are returned; the caller decides about them."""
    assert math.isnan(common_metric(_evaluator(loss=math.nan), "loss", needed_by="test"))
    assert common_metric(_evaluator(loss=-math.inf), "loss", needed_by="test") == -math.inf


def test_a_metric_that_is_missing() -> None:
    """The error names the metrics that were computed, or says that there were none."""
    with pytest.raises(ValueError, match=r"X needs metric 'iou', but the evaluator computed: acc, loss$"):
        common_metric(_evaluator(acc=1, loss=2), "iou", needed_by="X")
    with pytest.raises(ValueError, match=r"X needs metric 'iou', but the evaluator computed: none$"):
        common_metric(_evaluator(), "iou", needed_by="X")


def test_a_function_that_raises_gets_a_note() -> None:
    """The user's own error is passed on, with a note about where it was raised."""
    with pytest.raises(ZeroDivisionError, match="division by zero") as caught:
        common_metric(_evaluator(), lambda evaluator: 1 / 0, needed_by="PlateauStepper")
    assert caught.value.__notes__ == ["raised by the metric function of PlateauStepper"]
