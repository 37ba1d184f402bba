"""LearningRateLogger: what TensorBoard's own reader finds in its files."""

import gc
import importlib
import inspect
import re
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar, TensorboardLogger
from ignite.handlers.polyaxon_logger import PolyaxonLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from torch import nn

from ignite_tips import (
    LearningRateLogger,
    ParameterFreezer,
    ResumableTensorboardLogger,
    RunAnnotator,
    attach_optimizer_events,
    current_step,
)
from ignite_tips.core.events import OptimizerEvents
from ignite_tips.core.wiring import annotate
from tests.support import run_distributed

_Series = dict[str, list[tuple[int, float]]]


def _optimizer(cls: Any = torch.optim.AdamW, **options: Any) -> Any:
    model = nn.ModuleDict({"backbone": nn.Linear(2, 3), "head": nn.Linear(3, 1)})
    lrs = {"backbone": 0.01, "head": 0.1}
    return cls([{"params": model[name].parameters(), "name": name, "lr": lr} for name, lr in lrs.items()], **options)


def _step(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    optimizer.step()


def _trainer(*optimizers: torch.optim.Optimizer, accumulation: int = 1) -> Engine:
    def update(engine: Engine, batch: Any) -> None:
        if engine.state.iteration % accumulation == 0:
            for optimizer in optimizers:
                _step(optimizer)

    return Engine(update)


def _read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def _series(folder: Path) -> _Series:
    reader = _read(folder)
    return {tag: [(point.step, point.value) for point in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def _steps(folder: Path) -> dict[str, list[int]]:
    return {tag: [step for step, _ in points] for tag, points in _series(folder).items()}


def _layouts(folder: Path) -> list[dict[str, dict[str, list[str]]]]:
    found = []
    for entry in _read(folder).Tensors("custom_scalars__config__"):
        layout = Layout.FromString(entry.tensor_proto.string_val[0])
        charts = {
            category.title: {c.title: list(c.multiline.tag) for c in category.chart} for category in layout.category
        }
        found.append(charts)
    return found


def _float32(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float32))


def _decay(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.7)


# Where schedulers are stepped: the first two before the update of the iteration, the others after it.
STEPPED_AT = [
    Events.ITERATION_STARTED,
    OptimizerEvents.STEP_STARTED,
    OptimizerEvents.STEP_COMPLETED,
    Events.ITERATION_COMPLETED,
    Events.EPOCH_COMPLETED,
]


def _hand_written(stepped_at: Any, epochs: int, epoch_length: int) -> dict[str, list[float]]:
    """Return the learning rates that each update of a hand-written loop uses."""
    optimizer = _optimizer()
    scheduler = _decay(optimizer)
    used: dict[str, list[float]] = {"backbone": [], "head": []}
    scheduler.optimizer.step()  # torch warns if a scheduler steps before its optimizer
    for _ in range(epochs):
        for _ in range(epoch_length):
            if stepped_at in STEPPED_AT[:2]:
                scheduler.step()
            for group in optimizer.param_groups:
                used[group["name"]].append(_float32(group["lr"]))
            _step(optimizer)
            if stepped_at in STEPPED_AT[2:4]:
                scheduler.step()
        if stepped_at == Events.EPOCH_COMPLETED:
            scheduler.step()
    return used


@pytest.mark.parametrize("scheduler_first", [True, False])
@pytest.mark.parametrize("stepped_at", STEPPED_AT, ids=lambda event: event.name)
@pytest.mark.parametrize(
    ("event", "steps"),
    [
        (OptimizerEvents.STEP_STARTED, [1, 2, 3, 4, 5, 6]),
        (OptimizerEvents.STEP_COMPLETED, [1, 2, 3, 4, 5, 6]),
        (OptimizerEvents.STEP_STARTED(every=2), [2, 4, 6]),
        (Events.ITERATION_STARTED, [1, 2, 3, 4, 5, 6]),
        (Events.ITERATION_COMPLETED, [1, 2, 3, 4, 5, 6]),
        (Events.EPOCH_STARTED, [1, 4]),
        (Events.EPOCH_COMPLETED, [3, 6]),
    ],
    ids=["step started", "step completed", "every 2", "iteration started", "iteration completed", "epoch", "epoch end"],
)
def test_each_series_has_the_lrs_in_use_in_any_order_of_attachment(
    tmp_path: Path, event: Any, steps: list[int], stepped_at: Any, scheduler_first: bool
) -> None:
    """At every event and however schedulers are stepped, they equal those of a hand-written loop at ``steps``."""
    optimizer = _optimizer()
    scheduler = _decay(optimizer)
    optimizer.step()
    trainer = _trainer(optimizer)
    with TensorboardLogger(log_dir=tmp_path) as tb_logger:
        attach: list[Callable[[], Any]] = [
            lambda: trainer.add_event_handler(stepped_at, lambda: scheduler.step()),
            lambda: LearningRateLogger(optimizer).attach(trainer, tb_logger, event),
        ]
        attach_optimizer_events(trainer, optimizer)
        for call in attach if scheduler_first else reversed(attach):
            call()
        trainer.run(range(3), max_epochs=2)
    by_epoch = len(steps) == 2
    used = _hand_written(stepped_at, 2, 3)
    assert _series(tmp_path) == {
        f"lr/{name}": [(index + 1 if by_epoch else step, lrs[step - 1]) for index, step in enumerate(steps)]
        for name, lrs in used.items()
    }


@pytest.mark.parametrize("skipper_first", [True, False])
def test_a_skipped_update_is_not_written(tmp_path: Path, skipper_first: bool) -> None:
    """Whether the handler that skips it was attached before or after the logger."""
    optimizer = _optimizer()
    trainer = _trainer(optimizer)
    attach_optimizer_events(trainer, optimizer)

    def skip(engine: Engine) -> None:
        if engine.state.iteration in (2, 3):
            current_step(engine).skip()

    with TensorboardLogger(log_dir=tmp_path) as tb_logger:
        if skipper_first:
            trainer.add_event_handler(OptimizerEvents.STEP_STARTED, skip)
        LearningRateLogger(optimizer).attach(trainer, tb_logger)
        if not skipper_first:
            trainer.add_event_handler(OptimizerEvents.STEP_STARTED, skip)
        trainer.run(range(5))
    assert _steps(tmp_path) == {"lr/backbone": [1, 2, 3], "lr/head": [1, 2, 3]}


def test_under_accumulation_the_x_axis_is_the_update_or_from_a_function(tmp_path: Path) -> None:
    """Six iterations are three updates, and three points on either axis."""
    optimizer = _optimizer()
    trainer = _trainer(optimizer, accumulation=2)
    with TensorboardLogger(log_dir=tmp_path) as tb_logger:
        LearningRateLogger(optimizer).attach(trainer, tb_logger)
        by_iteration = LearningRateLogger(
            optimizer, tag="iteration", global_step_transform=lambda engine, event: engine.state.iteration
        )
        by_iteration.attach(trainer, tb_logger)
        LearningRateLogger(optimizer, tag="started").attach(trainer, tb_logger, Events.ITERATION_STARTED)
        trainer.run(range(6))
    steps = _steps(tmp_path)
    assert (steps["lr/head"], steps["iteration/lr/head"]) == ([1, 2, 3], [2, 4, 6])
    assert steps["started/lr/head"] == [2, 4, 6]


def test_a_list_of_events_is_logged_at_each(tmp_path: Path) -> None:
    """Each event has its own x axis."""
    optimizer = _optimizer()
    trainer = _trainer(optimizer)
    with TensorboardLogger(log_dir=tmp_path) as tb_logger:
        LearningRateLogger(optimizer).attach(trainer, tb_logger, Events.EPOCH_STARTED | Events.COMPLETED)
        trainer.run(range(3), max_epochs=2)
    assert _steps(tmp_path)["lr/head"] == [1, 2, 2]


def test_options_of_every_kind_are_written_under_their_names(tmp_path: Path) -> None:
    """Options may be numbers, pairs and tensors."""
    optimizer = _optimizer(betas=(0.8, 0.99), weight_decay=0.25)
    optimizer.param_groups[1]["lr"] = torch.tensor(0.5)
    trainer = _trainer(optimizer)
    with TensorboardLogger(log_dir=tmp_path) as tb_logger:
        LearningRateLogger(optimizer, param_names=["lr", "betas", "weight_decay"]).attach(trainer, tb_logger)
        trainer.run(range(1))
    assert {tag: points[0][1] for tag, points in _series(tmp_path).items()} == {
        "lr/backbone": _float32(0.01),
        "lr/head": 0.5,
        "betas/backbone/0": _float32(0.8),
        "betas/backbone/1": _float32(0.99),
        "betas/head/0": _float32(0.8),
        "betas/head/1": _float32(0.99),
        "weight_decay/backbone": 0.25,
        "weight_decay/head": 0.25,
    }


def test_names_are_written_unchanged(tmp_path: Path) -> None:
    """TensorBoard accepts any name; a group without one has its index."""
    weights = [nn.Parameter(torch.ones(1)) for _ in range(3)]
    groups = [{"params": [weights[0]], "name": "layer 1.* (no decay)"}, {"params": [weights[1]], "name": "Köpfe"}]
    optimizer = torch.optim.SGD([*groups, {"params": [weights[2]]}], lr=0.1)
    trainer = _trainer(optimizer)
    with TensorboardLogger(log_dir=tmp_path) as tb_logger:
        LearningRateLogger(optimizer).attach(trainer, tb_logger)
        trainer.run(range(1))
    assert list(_series(tmp_path)) == ["lr/layer 1.* (no decay)", "lr/Köpfe", "lr/2"]


def test_all_groups_of_a_step_are_one_record(tmp_path: Path) -> None:
    """One record, for any number of groups."""
    parameters = [nn.Parameter(torch.ones(1)) for _ in range(50)]
    optimizer = torch.optim.SGD([{"params": [parameter], "name": f"g{i}"} for i, parameter in enumerate(parameters)])
    trainer = _trainer(optimizer)
    with TensorboardLogger(log_dir=tmp_path) as tb_logger:
        LearningRateLogger(optimizer).attach(trainer, tb_logger)
        trainer.run(range(3))
    (path,) = tmp_path.iterdir()
    records = [len(event.summary.value) for event in EventFileLoader(str(path)).Load() if event.step > 0]
    assert records == [50, 50, 50]


def test_groups_added_or_unfrozen_later_start_then(tmp_path: Path) -> None:
    """A fully frozen group has no learning rate in use."""
    optimizer = _optimizer()
    backbone = optimizer.param_groups[0]["params"]
    trainer = _trainer(optimizer)

    @trainer.on(Events.ITERATION_STARTED)
    def change(engine: Engine) -> None:
        for parameter in backbone:
            parameter.requires_grad_(engine.state.iteration not in (1, 2, 5))
        if engine.state.iteration == 4:
            optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "name": "new"})

    with TensorboardLogger(log_dir=tmp_path) as tb_logger:
        LearningRateLogger(optimizer).attach(trainer, tb_logger)
        trainer.run(range(6))
    assert _steps(tmp_path) == {"lr/backbone": [3, 4, 6], "lr/head": [1, 2, 3, 4, 5, 6], "lr/new": [4, 5, 6]}


def test_only_changes_are_drawn_as_steps(tmp_path: Path) -> None:
    """Each level has a point at both ends, the last one at the run's end."""
    optimizer = _optimizer()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 4, gamma=0.1)
    trainer = _trainer(optimizer)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: scheduler.step())
    with TensorboardLogger(log_dir=tmp_path) as tb_logger:
        LearningRateLogger(optimizer, only_changes=True).attach(trainer, tb_logger)
        trainer.run(range(10))
    lrs = [_float32(0.1), _float32(0.01), _float32(0.001)]
    expected = list(zip([1, 4, 5, 8, 9, 10], [lr for lr in lrs for _ in range(2)], strict=True))
    assert _series(tmp_path)["lr/head"] == [(step, pytest.approx(lr)) for step, lr in expected]


def test_all_groups_are_in_one_chart_that_is_written_once(tmp_path: Path) -> None:
    """One chart per option, one category per optimizer; two optimizers share one layout."""
    discriminator, generator = _optimizer(), _optimizer(torch.optim.SGD)
    trainer = _trainer(discriminator, generator)
    with TensorboardLogger(log_dir=tmp_path) as tb_logger:
        LearningRateLogger(discriminator, param_names=("lr", "betas")).attach(trainer, tb_logger)
        LearningRateLogger(generator, tag="generator").attach(trainer, tb_logger)
        trainer.run(range(2), max_epochs=2)
    assert _layouts(tmp_path) == [
        {"optimizer": {"lr": ["^lr/"], "betas": ["^betas/"]}, "generator": {"lr": ["^generator/lr/"]}}
    ]
    tags = _series(tmp_path)
    assert [tag for tag in tags if re.match("^lr/", tag)] == ["lr/backbone", "lr/head"]
    assert [tag for tag in tags if re.match("^generator/lr/", tag)] == ["generator/lr/backbone", "generator/lr/head"]


def test_several_optimizers_are_told_apart(tmp_path: Path) -> None:
    """Each logger writes at its own optimizer's updates; the x axis counts all updates."""
    first, second = _optimizer(), _optimizer()
    trainer = _trainer(first, second)
    with TensorboardLogger(log_dir=tmp_path) as tb_logger:
        LearningRateLogger(first, tag="first").attach(trainer, tb_logger)
        LearningRateLogger(second, tag="second").attach(trainer, tb_logger)
        trainer.run(range(2))
    steps = _steps(tmp_path)
    assert (steps["first/lr/head"], steps["second/lr/head"]) == ([1, 3], [2, 4])


def test_a_second_logger_of_the_same_names_is_refused(tmp_path: Path) -> None:
    """For one optimizer, as by running a cell again, or for two; the first logger stays attached."""
    optimizer, other = _optimizer(), _optimizer()
    trainer = _trainer(optimizer, other)
    sentence = (
        "each LearningRateLogger must write its own names, but another one attached to the trainer already writes "
        "'lr/backbone' to {}; give one of the two a tag=..., or detach() the first"
    )
    with TensorboardLogger(log_dir=tmp_path) as tb_logger:
        first = LearningRateLogger(optimizer).attach(trainer, tb_logger)
        in_metrics = LearningRateLogger(optimizer).attach(trainer)
        for second in (LearningRateLogger(optimizer), LearningRateLogger(other)):
            with pytest.raises(ValueError, match=re.escape(sentence.format("this TensorboardLogger"))):
                second.attach(trainer, tb_logger, Events.EPOCH_STARTED)
            with pytest.raises(ValueError, match=re.escape(sentence.format("the trainer's metrics"))):
                second.attach(trainer)
        LearningRateLogger(other, param_names="weight_decay").attach(trainer, tb_logger)
        trainer.run(range(2))
        first.attach(trainer, tb_logger).detach()
        in_metrics.detach()
        LearningRateLogger(other).attach(trainer, tb_logger)
        LearningRateLogger(other).attach(trainer)
    assert _steps(tmp_path)["lr/head"] == [1, 3]


def test_a_logger_serves_a_second_trainer(tmp_path: Path) -> None:
    """Names conflict within one trainer only, and neither trainer nor logger is kept alive."""
    optimizer = _optimizer()
    trainers = [_trainer(optimizer), _trainer(optimizer)]
    tb_logger = TensorboardLogger(log_dir=tmp_path)
    for trainer in trainers:
        LearningRateLogger(optimizer).attach(trainer, tb_logger)
        trainer.run(range(2))
    tb_logger.close()
    assert _steps(tmp_path)["lr/head"] == [1, 2, 1, 2]
    alive = [weakref.ref(trainer) for trainer in trainers] + [weakref.ref(tb_logger)]
    del trainer, trainers, tb_logger
    gc.collect()
    assert [reference() for reference in alive] == [None] * 3


@pytest.mark.parametrize("event", [OptimizerEvents.STEP_STARTED, Events.EPOCH_STARTED, Events.ITERATION_COMPLETED])
def test_an_optimizer_that_is_never_stepped_warns_once(event: Any) -> None:
    """After the first epoch, at any event; not if all its parameters are frozen, and not in later epochs."""
    stepped, other = _optimizer(), _optimizer()
    trainer = _trainer(stepped)
    LearningRateLogger(other).attach(trainer, event=event)
    sentence = "found no update of its AdamW in 2 iterations, so there is no learning rate in use to log yet; if the"
    with pytest.warns(UserWarning, match=sentence) as caught:
        trainer.run(range(2), max_epochs=3)
    assert len(caught) == 1
    trainer.run(range(2), max_epochs=4)
    for group in other.param_groups:
        for parameter in group["params"]:
            parameter.requires_grad_(False)
    trainer.state.max_epochs = None
    trainer.run(range(2), max_epochs=1)
    assert trainer.state.epoch == 1


def test_it_works_as_an_ignite_log_handler(tmp_path: Path) -> None:
    """Attached by the TensorboardLogger, it uses the event's x axis; at updates, only its own optimizer's."""
    optimizer, other = _optimizer(), _optimizer()
    trainer = _trainer(optimizer, other)
    attach_optimizer_events(trainer, optimizer)
    attach_optimizer_events(trainer, other)
    with TensorboardLogger(log_dir=tmp_path) as tb_logger:
        for tag, event in (
            ("epoch", Events.EPOCH_STARTED),
            ("started", OptimizerEvents.STEP_STARTED),
            ("completed", OptimizerEvents.STEP_COMPLETED),
        ):
            tb_logger.attach(trainer, LearningRateLogger(optimizer, tag=tag), event)
        trainer.run(range(3), max_epochs=2)
    steps = _steps(tmp_path)
    assert steps["epoch/lr/head"] == [1, 2]
    assert steps["started/lr/head"] == steps["completed/lr/head"] == [1, 3, 5, 7, 9, 11]


def test_without_a_logger_the_values_are_plain_metrics() -> None:
    """Any logger can take the values from the engine's metrics."""
    optimizer = _optimizer()
    trainer = _trainer(optimizer)
    LearningRateLogger(optimizer).attach(trainer)
    assert trainer.run(range(1)).metrics == {"lr/backbone": 0.01, "lr/head": 0.1}


class _KeepingPolyaxonLogger(PolyaxonLogger):
    """Ignite's logger for Polyaxon, without its server."""

    def __init__(self) -> None:
        self.kept: list[tuple[dict[str, float], int]] = []

    def log_metrics(self, step: int, **metrics: float) -> None:
        self.kept.append((metrics, step))


def test_other_loggers_of_ignite_write_it_under_their_own_rules() -> None:
    """Each logger's own output handler writes the values."""
    optimizer = _optimizer()
    trainer = _trainer(optimizer)
    logger = _KeepingPolyaxonLogger()
    LearningRateLogger(optimizer, param_names=("lr", "eps")).attach(trainer, logger)
    trainer.run(range(2))
    lrs, eps = {"lr/backbone": 0.01, "lr/head": 0.1}, {"eps/backbone": 1e-8, "eps/head": 1e-8}
    assert logger.kept == [(lrs, 1), (eps, 1), (lrs, 2), (eps, 2)]


@pytest.mark.parametrize("name", ["clearml", "mlflow", "neptune", "polyaxon", "visdom", "wandb"])
def test_every_logger_of_ignite_has_such_a_handler(name: str) -> None:
    """Its output handler accepts the arguments that are passed to it."""
    module = importlib.import_module(f"ignite.handlers.{name}_logger")
    arguments = inspect.signature(module.OutputHandler).parameters
    assert {"tag", "output_transform", "global_step_transform"} <= set(arguments)


def test_a_progress_bar_shows_the_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    """A progress bar stores no values by step, so it is refused as a logger; the error says what to do."""
    optimizer = _optimizer()
    trainer = _trainer(optimizer)
    with pytest.raises(TypeError, match=re.escape("ProgressBar().attach(trainer, ['lr/...'])")):
        LearningRateLogger(optimizer).attach(trainer, ProgressBar())
    LearningRateLogger(optimizer).attach(trainer)
    ProgressBar(persist=True, ncols=120).attach(trainer, ["lr/head"])
    trainer.run(range(2))
    assert "lr/head=0.1" in capsys.readouterr().err


def test_attaching_again_replaces_and_detaching_ends(tmp_path: Path) -> None:
    """Attached twice it writes once; detached it writes nothing."""
    optimizer = _optimizer()
    trainer = _trainer(optimizer)
    logger = LearningRateLogger(optimizer, only_changes=False)
    with TensorboardLogger(log_dir=tmp_path) as tb_logger:
        logger.attach(trainer, tb_logger, Events.EPOCH_STARTED)
        logger.attach(trainer, tb_logger)
        trainer.run(range(3))
        logger.detach()
        trainer.run(range(3), max_epochs=2)
    assert _steps(tmp_path)["lr/head"] == [1, 2, 3]


def test_duplicate_names_are_refused_at_any_time(tmp_path: Path) -> None:
    """In the constructor, and when a group is added later."""
    optimizer = _optimizer()
    trainer = _trainer(optimizer)
    with TensorboardLogger(log_dir=tmp_path) as tb_logger:
        LearningRateLogger(optimizer).attach(trainer, tb_logger)
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "name": "head"})
        with pytest.raises(ValueError, match="param groups must have different names, got 'head' twice"):
            trainer.run(range(1))
    with pytest.raises(ValueError, match="param groups must have different names, got 'head' twice"):
        LearningRateLogger(optimizer)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"param_names": "momentum"}, ValueError, "every param group, got 'momentum'; group 'backbone' has: lr, betas"),
        ({"param_names": "foreach"}, TypeError, "param_names must be numeric options, got 'foreach', which is None"),
        ({"param_names": "amsgrad"}, TypeError, "numeric options, got 'amsgrad', which is False (bool)"),
        ({"param_names": ()}, ValueError, "param_names must have at least one name, got none"),
        ({"param_names": (3,)}, TypeError, "param_names must be strings, got 3 (int)"),
        ({"tag": 3}, TypeError, "tag must be a string or None, got 3 (int)"),
        ({"only_changes": "yes"}, TypeError, "only_changes must be True or False, got 'yes' (str)"),
        ({"optimizer": None}, TypeError, "optimizer must be a torch Optimizer, got None"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    """Each error names the argument and the value."""
    with pytest.raises(error, match=re.escape(message)):
        LearningRateLogger(**{"optimizer": _optimizer(), **arguments})


def test_an_unknown_logger_is_refused() -> None:
    """The error shows the value."""
    optimizer = _optimizer()
    unknown: Any = "runs"
    with pytest.raises(TypeError, match=re.escape("logger must be one of Ignite's loggers, got 'runs' (str)")):
        LearningRateLogger(optimizer).attach(_trainer(optimizer), unknown)


def _attach_all(model: nn.Module, optimizer: torch.optim.Optimizer, trainer: Engine, logger: TensorboardLogger) -> None:
    LearningRateLogger(optimizer).attach(trainer, logger)
    LearningRateLogger(optimizer, tag="each", run_per_group=True).attach(trainer, logger)
    RunAnnotator(model, optimizer).attach(trainer, logger)
    logger.attach_output_handler(
        trainer, Events.ITERATION_COMPLETED, "training", output_transform=lambda _: {"loss": 1.0}
    )


def _logger(kind: type[TensorboardLogger], folder: Path, trainer: Engine) -> TensorboardLogger:
    return kind(folder, trainer) if kind is ResumableTensorboardLogger else kind(folder)


@pytest.mark.parametrize("kind", [TensorboardLogger, ResumableTensorboardLogger])
@pytest.mark.parametrize("is_run_before", [True, False])
def test_a_run_after_the_logger_was_closed_is_logged(
    kind: type[TensorboardLogger], is_run_before: bool, tmp_path: Path
) -> None:
    """Where Ignite's own handlers write, ours do: each point once, also if the logger is closed before any run."""
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = _trainer(optimizer)

    @trainer.on(Events.STARTED)
    def start(engine: Engine) -> None:
        engine.state.metrics["grad_norm"] = 1.0
        annotate(engine, "freeze", "all")

    with _logger(kind, tmp_path, trainer) as tb_logger:
        _attach_all(model, optimizer, trainer, tb_logger)
        if is_run_before:
            trainer.run(range(2), max_epochs=1)
    trainer.run(range(2), max_epochs=2)
    tb_logger.close()
    steps = _steps(tmp_path)
    for tag in ("lr/0", "grad_norm", "training/loss"):
        assert steps[tag] == [1, 2, 3, 4], tag
    assert _steps(tmp_path / "0")["each/lr"] == [1, 2, 3, 4]
    reader = EventAccumulator(str(tmp_path)).Reload()
    assert [entry.step for entry in reader.Tensors("annotations/text_summary")] == ([0, 2] if is_run_before else [0])


def test_a_cell_that_opens_a_logger_replaces_a_closed_one(tmp_path: Path) -> None:
    """A cell that opens a ResumableTensorboardLogger and runs, run again: the trainer's last logger alone goes on."""
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = _trainer(optimizer)
    ParameterFreezer(model, "bias").attach(trainer)
    for folder, epochs in ((tmp_path / "first", 1), (tmp_path / "second", 3)):
        with ResumableTensorboardLogger(folder, trainer) as tb_logger:
            _attach_all(model, optimizer, trainer, tb_logger)
            trainer.run(range(2), max_epochs=epochs)
        trainer.run(range(2), max_epochs=epochs + 1)  # opens the files again
    tb_logger.close()
    for folder, expected in ((tmp_path / "first", [1, 2, 3, 4]), (tmp_path / "second", [5, 6, 7, 8])):
        for tag in ("lr/0", "training/loss"):
            assert _steps(folder)[tag] == expected, (folder, tag)


def _train_on_rank(rank: int, world_size: int, folder: Path) -> dict[str, float]:
    optimizer = _optimizer()
    trainer = _trainer(optimizer)
    LearningRateLogger(optimizer).attach(trainer)
    with TensorboardLogger(log_dir=folder / str(rank)) as tb_logger:
        LearningRateLogger(optimizer).attach(trainer, tb_logger)
        return dict(trainer.run(range(3)).metrics)


@pytest.mark.distributed
def test_only_rank_zero_writes_files(tmp_path: Path) -> None:
    """The other ranks write no series, even with a logger; the metrics are on every rank."""
    metrics = run_distributed(_train_on_rank, 2, tmp_path)
    assert _steps(tmp_path / "0")["lr/head"] == [1, 2, 3]
    assert _series(tmp_path / "1") == {}
    assert metrics == [{"lr/backbone": 0.01, "lr/head": 0.1}] * 2
