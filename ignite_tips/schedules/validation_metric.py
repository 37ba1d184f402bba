"""A validation metric as one number, the same on every rank."""

import math
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from ignite.engine import Engine

from ignite_tips._checks import as_number, describe

__all__ = ["common_metric", "metric_name"]

_ROUNDING = 1e-5  # how much the ranks' metrics may differ


def common_metric(evaluator: Engine, metric: str | Callable[[Engine], Any], needed_by: str) -> float:
    """Return the metric of the evaluator's last run; rank 0's if the ranks differ by rounding.

    Every rank of the process group must call it. An error on one rank raises on all of them.

    Raises:
        ValueError: if the evaluator has no metric of that name.
        TypeError: if the metric is not a number.
        RuntimeError: if another rank failed, or the ranks differ by more than rounding.
    """
    value, failure = math.nan, None
    try:
        value = _read(evaluator, metric, needed_by)
    except Exception as error:  # tell the other ranks, which wait for an answer, before raising
        failure = error
    answers = _gather((value, None if failure is None else f"{type(failure).__name__}: {failure}"))
    if failure is not None:
        raise failure
    for rank, (_, reason) in enumerate(answers):
        if reason is not None:
            raise RuntimeError(f"{needed_by} needs its metric on every rank, but rank {rank} had {reason}")
    values = [value for value, _ in answers]
    if not all(_agree(values[0], other) for other in values):
        shown = ", ".join(f"{number:g}" for number in values)
        raise RuntimeError(
            f"{needed_by} needs the same {metric_name(metric)} on all ranks, but they have {shown}; reduce it over the "
            "ranks, as Ignite's metrics do"
        )
    return values[0]


def metric_name(metric: str | Callable[[Engine], Any]) -> str:
    """Return the metric's name for a message."""
    return f"metric {metric!r}" if isinstance(metric, str) else "the metric function's value"


def _read(evaluator: Engine, metric: str | Callable[[Engine], Any], needed_by: str) -> float:
    computed = evaluator.state.metrics
    if callable(metric):
        try:
            value = metric(evaluator)
        except Exception as error:  # raised by the user's function: re-raised with a note
            error.add_note(f"raised by the metric function of {needed_by}")
            raise
    elif metric in computed:
        value = computed[metric]
    else:
        names = ", ".join(map(str, computed)) or "none"
        raise ValueError(f"{needed_by} needs metric {metric!r}, but the evaluator computed: {names}")
    number = as_number(value)
    if number is None:
        raise TypeError(f"{metric_name(metric)} must be a number, got {describe(value)}")
    return float(number)


def _gather(answer: tuple[float, str | None]) -> list[tuple[float, str | None]]:
    if not dist.is_initialized():
        return [answer]
    answers: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(answers, answer)
    return answers


def _agree(one: float, other: float) -> bool:
    return (math.isnan(one) and math.isnan(other)) or math.isclose(one, other, rel_tol=_ROUNDING)
