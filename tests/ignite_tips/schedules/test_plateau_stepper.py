"""PlateauStepper: torch's ReduceLROnPlateau on a validation metric, counted once, the same on every rank."""

import gc
import warnings
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver
from torch.optim import SGD
from torch.optim.lr_scheduler import LinearLR, ReduceLROnPlateau, StepLR

from ignite_tips import PlateauStepper, SchedulerStepper
from ignite_tips.core.wiring import Annotation, on_annotation
from tests.support import run_distributed

EPOCH_LENGTH = 3


def _optimizer(lrs: Sequence[float] = (1.0,)) -> SGD:
    return SGD([{"params": [torch.nn.Parameter(torch.ones(2))], "lr": lr} for lr in lrs])


def _trainer(optimizer: SGD) -> Engine:
    return Engine(lambda engine, batch: optimizer.step())


def _evaluator(trainer: Engine, metrics: Sequence[float], name: str = "loss") -> Engine:
    """Return an engine that runs after each epoch of ``trainer`` and computes that epoch's metric."""
    evaluator = Engine(lambda engine, batch: None)

    @evaluator.on(Events.COMPLETED)
    def _compute(engine: Engine) -> None:
        engine.state.metrics[name] = metrics[trainer.state.epoch - 1]

    return evaluator


def _run(scheduler: ReduceLROnPlateau, metrics: Sequence[float], **kwargs: Any) -> list[list[float]]:
    """Train one epoch per metric and return the groups' learning rates after each validation."""
    optimizer = scheduler.optimizer
    trainer = _trainer(optimizer)
    evaluator = _evaluator(trainer, metrics)
    PlateauStepper(scheduler, **kwargs).attach(trainer, evaluator)
    lrs: list[list[float]] = []

    @trainer.on(Events.EPOCH_COMPLETED)
    def _validate() -> None:
        evaluator.run([0])
        lrs.append([group["lr"] for group in optimizer.param_groups])

    trainer.run(range(EPOCH_LENGTH), max_epochs=len(metrics))
    return lrs


def _native(scheduler: ReduceLROnPlateau, metrics: Sequence[float]) -> list[list[float]]:
    lrs = []
    for metric in metrics:
        scheduler.optimizer.step()
        scheduler.step(metric)
        lrs.append([group["lr"] for group in scheduler.optimizer.param_groups])
    return lrs


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
    """The learning rates after each validation are those computed by hand."""
    assert _run(ReduceLROnPlateau(_optimizer(), **options), metrics) == [[lr] for lr in expected]


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
    """Each of ReduceLROnPlateau's arguments has the same effect as in the hand-written loop."""
    worst = float("-inf" if options.get("mode") == "max" else "inf")
    metrics = [5.0, 4.0, 4.5, 4.1, 4.0, 4.2, 6.0, 1.0, 1.2, 1.1, 2.0, worst, 0.5]
    options = {"factor": 0.5, **options}
    expected = _native(ReduceLROnPlateau(_optimizer([1.0, 0.1]), **options), metrics)
    assert _run(ReduceLROnPlateau(_optimizer([1.0, 0.1]), **options), metrics) == expected


def test_metric_by_function() -> None:
    """A function of the evaluator may return the metric, also as a tensor."""
    scheduler = ReduceLROnPlateau(_optimizer(), factor=0.5, patience=0)
    lrs = _run(scheduler, [1.0, 2.0], metric=lambda evaluator: torch.tensor(evaluator.state.metrics["loss"]))
    assert lrs == [[1.0], [0.5]]


def _must_not_construct(scheduler: Any, metric: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        PlateauStepper(scheduler, metric)


def test_wrong_arguments() -> None:
    """Another kind of scheduler, and a metric that is neither a name nor a function, are refused."""
    plateau = ReduceLROnPlateau(_optimizer())
    _must_not_construct(
        StepLR(_optimizer(), 1), "loss", TypeError, "got an instance of StepLR; SchedulerStepper steps other"
    )
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
    """A metric that is missing, raises or is no number ends the run; the scheduler does not change."""
    scheduler = ReduceLROnPlateau(_optimizer())
    with pytest.raises(error, match=message):
        _run(scheduler, [1.0], metric=metric)
    assert scheduler.last_epoch == 0


def _mean_over_ranks(evaluator: Engine) -> float:
    return float(idist.all_reduce(evaluator.state.metrics["loss"])) / idist.get_world_size()


def _validate_on_ranks(rank: int, world_size: int, metrics: list[list[Any]], name: Any) -> Any:
    """Train with a metric for each rank and epoch; return the learning rates, or the run's error."""
    scheduler = ReduceLROnPlateau(_optimizer(), factor=0.5, patience=0)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            lrs = _run(scheduler, metrics[rank], metric=name)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return lrs, [str(warning.message) for warning in caught]


@pytest.mark.distributed
def test_ranks_cannot_diverge() -> None:
    """Ranks that differ by rounding keep one learning rate, by rank 0's metric; if they differ by more, all raise."""
    noisy = [[1.0, 1.0 - 1e-7, 0.5, 0.6], [1.0, 1.0, 0.5, 0.6]]
    assert run_distributed(_validate_on_ranks, 2, noisy, "loss") == 2 * [([[1.0], [0.5], [0.5], [0.25]], [])]
    message = "RuntimeError: PlateauStepper needs the same metric 'loss' on all ranks, but they have 1, 2"
    for answer in run_distributed(_validate_on_ranks, 2, [[1.0], [2.0]], "loss"):
        assert answer.startswith(message)
        assert answer.endswith("; reduce it over the ranks, as Ignite's metrics do")
    reduced = run_distributed(_validate_on_ranks, 2, [[1.0, 1.0], [2.0, 2.0]], _mean_over_ranks)
    assert [lrs for lrs, _ in reduced] == 2 * [[[1.0], [0.5]]]


@pytest.mark.distributed
def test_nan_and_failure_on_ranks() -> None:
    """NaN on all ranks steps none; NaN or an error on one rank ends all ranks, and none hangs."""
    nan = float("nan")
    for lrs, warned in run_distributed(_validate_on_ranks, 2, [[1.0, nan]] * 2, "loss"):
        assert lrs == [[1.0], [1.0]]
        assert len(warned) == 1
    answers = run_distributed(_validate_on_ranks, 2, [[1.0], [nan]], "loss")
    assert all("on all ranks, but they have 1, nan" in answer for answer in answers)
    answers = run_distributed(_validate_on_ranks, 2, [[1.0], ["bad"]], "loss")
    assert answers[0].startswith(
        "RuntimeError: PlateauStepper needs its metric on every rank, but rank 1 had TypeError"
    )
    assert answers[1].startswith("TypeError: metric 'loss' must be a number, got 'bad'")


def _train(
    stepper: PlateauStepper, runs: Callable[[Engine, Engine], None], *, data: Any = None, epochs: int = 4
) -> ReduceLROnPlateau:
    """Train; after each epoch ``runs(trainer, evaluator)`` runs the evaluator, whose loss is the epoch number."""
    scheduler = stepper.scheduler
    trainer = _trainer(scheduler.optimizer)
    evaluator = Engine(lambda engine, batch: engine.state.metrics.update(loss=float(trainer.state.epoch)))
    stepper.attach(trainer, evaluator, data=data)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: runs(trainer, evaluator))
    trainer.run(TRAINING, max_epochs=epochs)
    return scheduler


TRAINING, VALIDATION, TEST = [0, 1, 2], [3], [4]


def _stepper(**options: Any) -> PlateauStepper:
    return PlateauStepper(ReduceLROnPlateau(_optimizer(), **{"factor": 0.5, "patience": 0, **options}))


def test_training_data_and_validation_data_in_one_epoch() -> None:
    """An evaluator that runs on training and on validation data steps once per epoch, in either order."""
    for order in ([TRAINING, VALIDATION], [VALIDATION, TRAINING]):
        scheduler = _train(_stepper(), lambda trainer, evaluator, order=order: [evaluator.run(data) for data in order])
        assert scheduler.last_epoch == 4


def test_the_validation_data_can_be_named() -> None:
    """With ``data`` only runs over it count, even if it is the training data."""
    everything = [TRAINING, VALIDATION, TEST]
    for data in everything:
        run_all = lambda trainer, evaluator: [evaluator.run(some) for some in everything]  # noqa: E731
        assert _train(_stepper(), run_all, data=data).last_epoch == 4


def test_the_same_validation_twice_counts_once() -> None:
    """A second run over the same data counts again at another iteration, but not at the same one."""
    twice = lambda trainer, evaluator: [evaluator.run(VALIDATION) for _ in range(2)]  # noqa: E731
    assert _train(_stepper(), twice).last_epoch == 4
    optimizer = _optimizer()
    scheduler = ReduceLROnPlateau(optimizer)
    trainer = _trainer(optimizer)
    evaluator = Engine(lambda engine, batch: engine.state.metrics.update(loss=1.0))
    PlateauStepper(scheduler).attach(trainer, evaluator)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(every=2), lambda: evaluator.run(VALIDATION))
    trainer.run(range(6), max_epochs=2)
    assert scheduler.last_epoch == 6


def test_two_validations_at_once_are_an_error() -> None:
    """Runs over two data sets at one iteration raise an error instead of a guess."""
    both = lambda trainer, evaluator: [evaluator.run(data) for data in (VALIDATION, TEST)]  # noqa: E731
    with pytest.raises(RuntimeError, match=r"ran on two data sets at iteration 3; .* data=\.\.\.\)"):
        _train(_stepper(), both)


def test_data_created_for_each_epoch() -> None:
    """Validation data may be a new object in each epoch, or None."""
    assert _train(_stepper(), lambda trainer, evaluator: evaluator.run([5])).last_epoch == 4
    assert _train(_stepper(), lambda trainer, evaluator: evaluator.run(epoch_length=1)).last_epoch == 4
    stepper = _stepper()
    trainer = _trainer(stepper.scheduler.optimizer)
    evaluator = Engine(lambda engine, batch: engine.state.metrics.update(loss=1.0))
    stepper.attach(trainer, evaluator)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run(epoch_length=1))
    trainer.run(epoch_length=3, max_epochs=2)  # neither has data
    assert stepper.scheduler.last_epoch == 2


def test_only_validations_during_the_training_count() -> None:
    """Runs before the first update, after the training, or outside it do not step the scheduler."""
    stepper = _stepper()
    trainer = _trainer(stepper.scheduler.optimizer)
    evaluator = Engine(lambda engine, batch: engine.state.metrics.update(loss=1.0))
    stepper.attach(trainer, evaluator)
    for event in (Events.STARTED, Events.EPOCH_COMPLETED(every=2), Events.COMPLETED):
        trainer.add_event_handler(event, lambda: evaluator.run(VALIDATION))
    evaluator.run(VALIDATION)
    trainer.run(TRAINING, max_epochs=3)
    evaluator.run(VALIDATION)
    assert stepper.scheduler.last_epoch == 1
    for _ in range(2):  # new runs that end at the same iteration
        trainer.state.max_epochs = None
        trainer.run(TRAINING, max_epochs=2)
    assert stepper.scheduler.last_epoch == 3


@pytest.mark.parametrize("event", [Events.COMPLETED, Events.TERMINATE])
def test_a_last_evaluation_does_not_count(event: Events, tmp_path: Path) -> None:
    """One on other data in a run's last events, or after the run, also if a Checkpoint acted on them before."""
    stepper = _stepper()
    trainer = _trainer(stepper.scheduler.optimizer)
    evaluator = Engine(lambda engine, batch: engine.state.metrics.update(loss=1.0))
    stepper.attach(trainer, evaluator)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run(VALIDATION))
    trainer.add_event_handler(Events.EPOCH_COMPLETED(once=2), lambda: trainer.terminate())
    trainer.add_event_handler(event, Checkpoint({"stepper": stepper}, DiskSaver(str(tmp_path))))
    trainer.add_event_handler(event, lambda: evaluator.run(TEST))
    trainer.run(TRAINING, max_epochs=3)
    evaluator.run(TEST)
    assert stepper.scheduler.last_epoch == 2


def test_an_evaluation_while_the_run_is_interrupted_does_not_count() -> None:
    """Only those that the run starts do."""
    stepper = _stepper()
    trainer = _trainer(stepper.scheduler.optimizer)
    evaluator = Engine(lambda engine, batch: engine.state.metrics.update(loss=1.0))
    stepper.attach(trainer, evaluator)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run(VALIDATION))
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=2), trainer.interrupt)
    trainer.run(TRAINING, max_epochs=2)
    evaluator.run(TEST)
    trainer.run(TRAINING, max_epochs=2)
    assert stepper.scheduler.last_epoch == 2


def test_a_run_without_validation_warns() -> None:
    """A run in which no validation counted, for example only runs over the training data, ends with a warning."""
    with pytest.warns(UserWarning, match="counted no validation.*, over other data than the training data, and"):
        _train(_stepper(), lambda trainer, evaluator: evaluator.run(TRAINING))
    with pytest.warns(UserWarning, match="counted no validation.*, over the very object given as data, and"):
        _train(_stepper(), lambda trainer, evaluator: evaluator.run(TRAINING), data=VALIDATION)


def test_nan_warns_and_does_not_step() -> None:
    """A NaN metric gives a warning and is not a bad epoch; the next metric counts as usual."""
    scheduler = ReduceLROnPlateau(_optimizer(), factor=0.5, patience=1)
    with pytest.warns(UserWarning, match="got nan for metric 'loss' in epoch [23]; the scheduler was not") as caught:
        lrs = _run(scheduler, [1.0, float("nan"), float("nan"), 2.0, 3.0])
    assert lrs == [[1.0], [1.0], [1.0], [1.0], [0.5]]
    assert len(caught) == 2
    assert scheduler.last_epoch == 3


@pytest.mark.parametrize(("mode", "sign"), [("min", 1), ("max", -1)])
def test_an_infinitely_good_metric_warns(mode: str, sign: int) -> None:
    """Infinitely good gives a warning and no step; infinitely bad is a bad epoch, as in torch."""
    inf = float("inf")
    scheduler = ReduceLROnPlateau(_optimizer(), mode=mode, factor=0.5, patience=0)
    with pytest.warns(UserWarning, match=f"got {-sign * inf:g} for metric 'loss' in epoch 2; the scheduler") as caught:
        lrs = _run(scheduler, [sign * value for value in (2.0, -inf, 1.0, inf, 0.5)])
    assert lrs == [[1.0], [1.0], [1.0], [0.5], [0.5]]
    assert len(caught) == 1
    assert scheduler.best == sign * 0.5


def test_reductions_are_annotated() -> None:
    """Each reduction is an annotation with the metric, its best value and the learning rates."""
    scheduler = ReduceLROnPlateau(_optimizer([1.0, 0.1]), factor=0.5, patience=0, min_lr=[0.5, 0.0])
    trainer = _trainer(scheduler.optimizer)
    evaluator = _evaluator(trainer, [0.25, 0.2, 0.3, 0.4])
    PlateauStepper(scheduler).attach(trainer, evaluator)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run([0]))
    told: list[Annotation] = []
    on_annotation(trainer, lambda engine, annotation: told.append(annotation))
    trainer.run(range(EPOCH_LENGTH), max_epochs=4)
    assert [(annotation.kind, annotation.epoch) for annotation in told] == [("plateau", 3), ("plateau", 4)]
    assert told[0].text == "metric 'loss' is 0.3, its best was 0.2; learning rate from 1, 0.1 to 0.5, 0.05"
    assert told[1].text == "metric 'loss' is 0.4, its best was 0.2; learning rate from 0.5, 0.05 to 0.5, 0.025"


def test_attaching_again_replaces_and_detaching_ends() -> None:
    """Attached twice it steps once; detached it does not step."""
    stepper = _stepper()
    trainer = _trainer(stepper.scheduler.optimizer)
    evaluator = Engine(lambda engine, batch: engine.state.metrics.update(loss=1.0))
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run(VALIDATION))
    stepper.attach(trainer, evaluator)
    stepper.attach(trainer, evaluator)
    trainer.run(TRAINING, max_epochs=2)
    assert stepper.scheduler.last_epoch == 2
    stepper.detach()
    trainer.run(TRAINING, max_epochs=2)
    assert stepper.scheduler.last_epoch == 2


def _attached_engines(stepper: PlateauStepper) -> list[weakref.ref[Engine]]:
    trainer, evaluator = _trainer(_optimizer()), Engine(lambda engine, batch: None)
    stepper.attach(trainer, evaluator)
    return [weakref.ref(trainer), weakref.ref(evaluator)]


def test_keeps_no_engine_alive() -> None:
    """The handler does not keep the engines alive that it was attached to."""
    stepper = _stepper()
    references = _attached_engines(stepper)
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_resumed_at_the_same_iteration_does_not_count_again(tmp_path: Path) -> None:
    """A resumed run that starts by validating the saved weights again does not count a second bad epoch."""
    first = _stepper()
    _train(first, lambda trainer, evaluator: evaluator.run(VALIDATION), epochs=2)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = _stepper()
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    trainer = _trainer(second.scheduler.optimizer)
    evaluator = Engine(lambda engine, batch: engine.state.metrics.update(loss=9.0))
    second.attach(trainer, evaluator)
    for event in (Events.STARTED, Events.EPOCH_COMPLETED):
        trainer.add_event_handler(event, lambda: evaluator.run(VALIDATION))
    trainer.load_state_dict({"epoch_length": 3, "max_epochs": 3, "iteration": 6} | _counts(trainer))
    trainer.run(TRAINING)
    assert second.scheduler.last_epoch == 3


def _counts(trainer: Engine) -> dict[str, Any]:
    return {key: getattr(trainer.state, key) for key in trainer.state_dict_user_keys}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda state: [], TypeError, r"PlateauStepper state must be a mapping, got \[\] \(list\)"),
        (lambda state: {"scheduler": {}}, ValueError, "PlateauStepper state must have the keys iteration, scheduler"),
        (
            lambda state: state | {"scheduler": {}},
            ValueError,
            "the keys schedule, scheduler, options, got none",
        ),
        (lambda state: state | {"iteration": "3"}, TypeError, r"iteration must be an integer, got '3' \(str\)"),
    ],
)
def test_wrong_state(change: Any, error: type[Exception], message: str) -> None:
    """A wrong state is refused and changes nothing."""
    stepper = _stepper()
    before = stepper.state_dict()
    with pytest.raises(error, match=message):
        stepper.load_state_dict(change(before))
    assert stepper.state_dict() == before


@pytest.mark.parametrize(("trainer", "evaluator"), [(None, Engine(print)), (Engine(print), "evaluator")])
def test_no_engines(trainer: Any, evaluator: Any) -> None:
    """Anything but an engine is refused."""
    with pytest.raises(TypeError, match=r"(trainer|evaluator) must be an ignite Engine, got"):
        _stepper().attach(trainer, evaluator)


def test_one_engine_for_both() -> None:
    """An engine cannot validate itself."""
    trainer = _trainer(_optimizer())
    with pytest.raises(ValueError, match="evaluator must be another engine than the trainer"):
        _stepper().attach(trainer, trainer)


def test_a_warmup_may_run_beside_it() -> None:
    """LinearLR in a SchedulerStepper warms the learning rate up, then no longer changes the plateau's reductions."""
    optimizer = _optimizer()
    trainer = _trainer(optimizer)
    evaluator = _evaluator(trainer, [1.0, 0.5, 0.25, 0.3, 0.2, 0.3])
    SchedulerStepper(LinearLR(optimizer, 0.5, total_iters=2)).attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run([0]))
    PlateauStepper(ReduceLROnPlateau(optimizer, factor=0.5, patience=0)).attach(trainer, evaluator)
    lrs: list[float] = []
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda: lrs.append(optimizer.param_groups[0]["lr"]))
    trainer.run(range(EPOCH_LENGTH), max_epochs=6)
    assert [*lrs, optimizer.param_groups[0]["lr"]] == [0.5, 0.75, 1.0, 1.0, 0.5, 0.5, 0.25]


def test_a_resumed_run_needs_the_plateaus_state() -> None:
    """Without the best metric and the count of bad epochs it would start over."""
    stepper = _stepper()
    trainer = _trainer(stepper.scheduler.optimizer)
    trainer.logger.disabled = True
    stepper.attach(trainer, Engine(lambda engine, batch: None))
    trainer.load_state_dict({"epoch_length": 4, "max_epochs": 5, "iteration": 8})
    with pytest.raises(RuntimeError, match="PlateauStepper needs its saved state to resume from iteration 8"):
        trainer.run(TRAINING)
