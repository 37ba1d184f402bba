"""PlateauStepper: torch's ReduceLROnPlateau on a validation's metric, counted once, the same on every rank."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from ignite_tips import PlateauStepper
from tests.support import run_distributed

EPOCH_LENGTH = 3


def _optimizer(lrs: Sequence[float] = (1.0,)) -> SGD:
    return SGD([{"params": [torch.nn.Parameter(torch.ones(2))], "lr": lr} for lr in lrs])


def _trainer(optimizer: SGD) -> Engine:
    return Engine(lambda engine, batch: optimizer.step())


def _evaluator(trainer: Engine, metrics: Sequence[float], name: str = "loss") -> Engine:
    """Return an engine that is run after each epoch of ``trainer`` and computes that epoch's metric."""
    evaluator = Engine(lambda engine, batch: None)

    @evaluator.on(Events.COMPLETED)
    def _compute(engine: Engine) -> None:
        engine.state.metrics[name] = metrics[trainer.state.epoch - 1]

    return evaluator


def _run(scheduler: ReduceLROnPlateau, metrics: Sequence[float], **kwargs: Any) -> list[list[float]]:
    """Train an epoch for each metric and return the groups' rates after each validation."""
    optimizer = scheduler.optimizer
    trainer = _trainer(optimizer)
    evaluator = _evaluator(trainer, metrics)
    PlateauStepper(scheduler, **kwargs).attach(trainer, evaluator)
    rates: list[list[float]] = []

    @trainer.on(Events.EPOCH_COMPLETED)
    def _validate() -> None:
        evaluator.run([0])
        rates.append([group["lr"] for group in optimizer.param_groups])

    trainer.run(range(EPOCH_LENGTH), max_epochs=len(metrics))
    return rates


def _native(scheduler: ReduceLROnPlateau, metrics: Sequence[float]) -> list[list[float]]:
    rates = []
    for metric in metrics:
        scheduler.optimizer.step()
        scheduler.step(metric)
        rates.append([group["lr"] for group in scheduler.optimizer.param_groups])
    return rates


@pytest.mark.parametrize(
    ("metrics", "options", "expected"),
    [
        (
            [3, 7, 7, 9, 10, 11, 8, 8, 4, 7],
            {"mode": "max", "factor": 0.5, "patience": 1, "threshold": 1.99, "threshold_mode": "abs"},
            [1, 1, 1, 1, 1, 1, 1, 0.5, 0.5, 0.25],
        ),
        ([10, 9, 9, 9, 8.1], {"factor": 0.5, "patience": 2, "threshold": 0.1}, [1, 1, 1, 0.5, 0.5]),
    ],
)
def test_known_cases(metrics: list[float], options: dict[str, Any], expected: list[float]) -> None:
    """The rates after each validation are those worked out by hand."""
    assert _run(ReduceLROnPlateau(_optimizer(), **options), metrics) == [[rate] for rate in expected]


@pytest.mark.parametrize(
    "options",
    [
        {"min_lr": 0.02},
        {"min_lr": [0.5, 0.01]},
        {"mode": "max", "patience": 0},
        {"mode": "max", "threshold_mode": "abs", "threshold": 0.5, "patience": 0},
        {"threshold_mode": "abs", "threshold": 0.5, "patience": 1},
        {"patience": 0, "cooldown": 2},
        {"patience": 0, "eps": 0.3},
    ],
    ids=str,
)
def test_every_argument_of_torch(options: dict[str, Any]) -> None:
    """Each of ReduceLROnPlateau's arguments has the effect that it has in the hand-written loop."""
    metrics = [5.0, 4.0, 4.5, 4.1, 4.0, 4.2, 6.0, 1.0, 1.2, 1.1, 2.0, float("inf"), 0.5]
    options = {"factor": 0.5, **options}
    expected = _native(ReduceLROnPlateau(_optimizer([1.0, 0.1]), **options), metrics)
    assert _run(ReduceLROnPlateau(_optimizer([1.0, 0.1]), **options), metrics) == expected


def test_metric_by_function() -> None:
    """A function of the evaluator may give the number, as a tensor too."""
    scheduler = ReduceLROnPlateau(_optimizer(), factor=0.5, patience=0)
    rates = _run(scheduler, [1.0, 2.0], metric=lambda evaluator: torch.tensor(evaluator.state.metrics["loss"]))
    assert rates == [[1.0], [0.5]]


def _must_not_construct(scheduler: Any, metric: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        PlateauStepper(scheduler, metric)


def test_wrong_arguments() -> None:
    """A scheduler of another kind and a metric that is neither name nor function are refused."""
    plateau = ReduceLROnPlateau(_optimizer())
    _must_not_construct(StepLR(_optimizer(), 1), "loss", TypeError, "got <.*StepLR.*; SchedulerStepper steps others")
    _must_not_construct("plateau", "loss", TypeError, r"ReduceLROnPlateau, got 'plateau' \(str\)")
    _must_not_construct(plateau, 3, TypeError, "metric must be a metric's name or a function of the evaluator, got 3")


def _failing_metric(error: Exception) -> Callable[[Engine], float]:
    def metric(evaluator: Engine) -> float:
        raise error

    return metric


@pytest.mark.parametrize(
    ("metric", "error", "message"),
    [
        ("val_loss", ValueError, r"PlateauStepper needs metric 'val_loss', but the evaluator computed: loss$"),
        (_failing_metric(ZeroDivisionError("no batches")), ZeroDivisionError, "no batches"),
        (lambda evaluator: "0.3", TypeError, r"the metric function's value must be a number, got '0.3' \(str\)"),
        (lambda evaluator: True, TypeError, r"the metric function's value must be a number, got True \(bool\)"),
        (lambda evaluator: torch.ones(2), TypeError, r"must be a number, got tensor\(\[1., 1.\]\) \(Tensor\)"),
    ],
)
def test_unusable_metric(metric: Any, error: type[Exception], message: str) -> None:
    """A metric that is missing, raises or is no number ends the run in words, and the scheduler is as it was."""
    scheduler = ReduceLROnPlateau(_optimizer())
    with pytest.raises(error, match=message):
        _run(scheduler, [1.0], metric=metric)
    assert scheduler.last_epoch == 0


def _validate_on_ranks(rank: int, world_size: int, metrics: list[list[Any]], name: str) -> Any:
    """Train with a metric for each rank and epoch; return the rates, or what the run ended with."""
    scheduler = ReduceLROnPlateau(_optimizer(), factor=0.5, patience=0)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            rates = _run(scheduler, metrics[rank], metric=name)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return rates, [str(warning.message) for warning in caught]


@pytest.mark.distributed
def test_ranks_cannot_diverge() -> None:
    """Ranks that differ by rounding keep one rate, rank 0's; ranks that differ by more all end with an error."""
    noisy = [[1.0, 1.0 - 1e-7, 0.5, 0.6], [1.0, 1.0, 0.5, 0.6]]
    assert run_distributed(_validate_on_ranks, 2, noisy, "loss") == 2 * [([[1.0], [0.5], [0.5], [0.25]], [])]
    message = "RuntimeError: PlateauStepper needs one metric 'loss' on all ranks, but they have 1, 2"
    for answer in run_distributed(_validate_on_ranks, 2, [[1.0], [2.0]], "loss"):
        assert answer.startswith(message)


@pytest.mark.distributed
def test_nan_and_failure_on_ranks() -> None:
    """NaN everywhere steps nowhere; NaN or a failure on one rank ends all of them, and none waits for ever."""
    nan = float("nan")
    for rates, warned in run_distributed(_validate_on_ranks, 2, [[1.0, nan]] * 2, "loss"):
        assert rates == [[1.0], [1.0]]
        assert len(warned) == 1
    answers = run_distributed(_validate_on_ranks, 2, [[1.0], [nan]], "loss")
    assert all("on all ranks, but they have 1, nan" in answer for answer in answers)
    answers = run_distributed(_validate_on_ranks, 2, [[1.0], ["bad"]], "loss")
    assert answers[0].startswith(
        "RuntimeError: PlateauStepper needs its metric on every rank, but rank 1 had TypeError"
    )
    assert answers[1].startswith("TypeError: metric 'loss' must be a number, got 'bad'")
