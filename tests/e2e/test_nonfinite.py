"""NaN and infinity at drawn moments of a training: in a batch, in its loss, in a gradient."""

import io
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.engine import Engine, Events, create_supervised_trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ignite_tips import (
    GradientNormClipper,
    LearningRateLogger,
    PlateauStepper,
    ResumableTensorboardLogger,
    RunAnnotator,
    plot_runs,
)
from ignite_tips.notices import on_notice
from tests.ignite_tips.handlers.clipping_support import (
    CLIPPERS,
    Batch,
    Training,
    adamw,
    make_batches,
    make_model,
    same,
    sgd,
)

UPDATES = 6
OPTIMIZERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": (sgd, {"foreach": True}),
    "fused sgd": (sgd, {"fused": True}),
    "adamw": (adamw, {"foreach": False}),
    "fused adamw": (adamw, {"fused": True}),
}
NAMES = ("0.weight", "0.bias", "2.weight", "2.bias")


@dataclass(frozen=True)
class Fault:
    """What is not finite in one update: an input, a target, or a value of one gradient, after the backward pass."""

    where: str
    value: float
    place: int


@dataclass(frozen=True)
class Case:
    """A training, and at which of its updates there is a fault."""

    clipper: str
    optimizer: str
    precision: str
    accumulation: int
    faults: dict[int, Fault]

    def batches(self, *, whole: bool) -> list[Batch]:
        """Those of all updates, with their faults, or those of the updates that have none."""
        batches = make_batches(UPDATES * self.accumulation)
        for update, fault in self.faults.items():
            micro = (update - 1) * self.accumulation + fault.place % self.accumulation
            if fault.where == "input":
                batches[micro][0][fault.place % 4, 0] = fault.value
            elif fault.where == "target":
                batches[micro][1][fault.place % 4, 0] = fault.value
        return [
            batch for index, batch in enumerate(batches) if whole or index // self.accumulation + 1 not in self.faults
        ]

    def training(self) -> Training:
        make, options = OPTIMIZERS[self.optimizer]
        return Training(make, precision=self.precision, accumulate=self.accumulation, **options)

    def trainer(self, training: Training, *, whole: bool) -> Engine:
        """Return an engine that puts the faults into gradients where ``whole``."""

        def spoil(training: Training) -> None:
            fault = self.faults.get(engine.state.iteration // self.accumulation)
            if whole and fault is not None and fault.where == "gradient":
                gradient = list(training.model.parameters())[fault.place % len(NAMES)].grad
                gradient.view(-1)[fault.place % gradient.numel()] = fault.value

        engine = training.trainer(spoil)
        return engine

    def train(self, *, whole: bool, on_nonfinite: str) -> tuple[Training, Engine, Any]:
        training = self.training()
        trainer = self.trainer(training, whole=whole)
        clipper = CLIPPERS[self.clipper](training.optimizer, on_nonfinite=on_nonfinite, model=training.model)
        return training, trainer, clipper.attach(trainer)


def faults() -> st.SearchStrategy[Fault]:
    return st.builds(
        Fault,
        st.sampled_from(["input", "target", "gradient"]),
        st.sampled_from([math.nan, math.inf, -math.inf]),
        st.integers(0, 47),
    )


def cases(*, least: int, precisions: tuple[str, ...] = ("fp32", "bf16", "fp16")) -> st.SearchStrategy[Case]:
    return st.builds(
        Case,
        st.sampled_from(sorted(CLIPPERS)),
        st.sampled_from(sorted(OPTIMIZERS)),
        st.sampled_from(precisions),
        st.sampled_from([1, 2]),
        st.dictionaries(st.integers(1, UPDATES), faults(), min_size=least, max_size=4),
    )


def _are_finite(tensors: list[torch.Tensor]) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


@given(case=cases(least=0))
@settings(max_examples=120, deadline=None, derandomize=True)
def test_skip_leaves_no_trace(case: Case) -> None:
    """Parameters and optimizer state are finite after every update; at the end they are those of the run without."""
    training, trainer, clipper = case.train(whole=True, on_nonfinite="skip")
    finite: list[bool] = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: finite.append(_are_finite(training.tensors())))
    state = trainer.run(case.batches(whole=True))
    assert all(finite)
    assert len(finite) == UPDATES * case.accumulation
    assert state.optimizer_step == UPDATES - len(case.faults)
    # What GradScaler finds it skips by itself, before a clipper sees it.
    assert state.metrics["skipped_updates"] == (0 if case.precision == "fp16" else len(case.faults))

    expected, other, _ = case.train(whole=False, on_nonfinite="skip")
    if len(case.faults) < UPDATES:
        other.run(case.batches(whole=False))
    assert same(training, expected)
    buffer = io.BytesIO()
    torch.save(clipper.state_dict(), buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    norms = saved.get("rule", {}).get("norms", torch.zeros(0))
    assert norms.isfinite().all()
    assert len(norms) in (0, state.optimizer_step)


@given(case=cases(least=1, precisions=("fp32", "bf16")))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_raise_leaves_all_as_it_was(case: Case) -> None:
    """The first fault ends the run; the error names the update and, where it is one, the parameter."""
    training, trainer, _ = case.train(whole=True, on_nonfinite="raise")
    update = min(case.faults)
    with pytest.raises(RuntimeError, match="gradients must be finite, got ") as caught:
        trainer.run(case.batches(whole=True))
    name = type(training.optimizer).__name__
    message = str(caught.value)
    assert f"in update {update} of {name} (iteration {update * case.accumulation}, epoch 1)" in message
    fault = case.faults[update]
    if fault.where == "gradient":
        kind = "NaN" if math.isnan(fault.value) else "inf"
        assert f"got {kind} in {NAMES[fault.place % len(NAMES)]} in update" in message
    expected, other, _ = case.train(whole=False, on_nonfinite="raise")
    if update > 1:
        other.run(case.batches(whole=True)[: (update - 1) * case.accumulation])
    assert same(training, expected)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("clipper", CLIPPERS)
def test_gradients_too_large_to_measure_are_skipped(clipper: str, optimizer: str) -> None:
    """Finite gradients whose norm overflows cannot be scaled into a bound: their update is dropped and counted."""
    case = Case(clipper, optimizer, "fp32", 1, {3: Fault("gradient", 1e30, 0), 4: Fault("gradient", -3e38, 1)})
    training, trainer, _ = case.train(whole=True, on_nonfinite="skip")
    state = trainer.run(case.batches(whole=True))
    expected, other, _ = case.train(whole=False, on_nonfinite="skip")
    other.run(case.batches(whole=False))
    assert same(training, expected)
    assert (state.optimizer_step, state.metrics["skipped_updates"]) == (UPDATES - 2, 2)


@pytest.mark.parametrize("on_nonfinite", ["skip", "raise"])
def test_a_loss_that_is_nan_alone_is_no_reason(on_nonfinite: str, tmp_path: Path) -> None:
    """With finite gradients the update is made; the loss that was shown as NaN is written as NaN."""
    model, batches = make_model(), make_batches(3)
    optimizer = sgd(model)

    def update(engine: Engine, batch: Batch) -> float:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return math.nan if engine.state.iteration == 2 else loss.item()

    trainer = Engine(update)
    GradientNormClipper(optimizer, 0.3, on_nonfinite=on_nonfinite).attach(trainer)
    with ResumableTensorboardLogger(tmp_path, trainer) as tb_logger:
        tb_logger.attach_output_handler(
            trainer, Events.ITERATION_COMPLETED, tag="train", output_transform=lambda loss: {"loss": loss}
        )
        state = trainer.run(batches)
    assert (state.optimizer_step, state.metrics["skipped_updates"]) == (3, 0)
    assert [math.isnan(value) for value in _scalars(tmp_path)["train/loss"]] == [False, True, False]


def test_loggers_write_what_is_not_finite(tmp_path: Path) -> None:
    """A rate, a norm and a metric that are NaN or infinite are written as they are, and drawn around."""
    training = Training(sgd)
    trainer = training.trainer()
    evaluator = Engine(
        lambda engine, batch: engine.state.metrics.update(loss=(math.inf, math.nan)[trainer.state.epoch - 1])
    )
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run([0]))
    GradientNormClipper(training.optimizer, 0.3, on_nonfinite="propagate").attach(trainer)
    plateau = PlateauStepper(ReduceLROnPlateau(training.optimizer, patience=5))
    plateau.attach(trainer, evaluator)
    batches = make_batches(3)
    batches[1][0][0, 0] = math.nan
    with ResumableTensorboardLogger(tmp_path / "run", trainer) as tb_logger, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "PlateauStepper got nan", UserWarning)
        LearningRateLogger(training.optimizer, param_names=("lr", "momentum")).attach(trainer, tb_logger)
        RunAnnotator(training.model, training.optimizer).attach(trainer, tb_logger)
        tb_logger.attach_output_handler(evaluator, Events.EPOCH_COMPLETED, tag="validation", metric_names=["loss"])

        @trainer.on(Events.ITERATION_STARTED(once=6))
        def spoil() -> None:
            training.optimizer.param_groups[0]["lr"] = math.nan

        trainer.run(batches, max_epochs=2)
    scalars = _scalars(tmp_path / "run")
    assert [math.isnan(value) for value in scalars["grad_norm"]] == [False] + [True] * 5
    assert [math.isnan(value) for value in scalars["lr/0"]] == [False] * 5 + [True]
    assert scalars["validation/loss"][0] == math.inf
    plot_runs([tmp_path / "run"]).savefig(tmp_path / "run.png")


@pytest.mark.parametrize("on_nonfinite", ["skip", "raise"])
def test_statistics_of_a_batch_that_is_nan_stay(on_nonfinite: str) -> None:
    """What the forward pass left in BatchNorm nothing takes back: it is said, and BatchNorm's own reset mends it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.Linear(8, 1))
    optimizer = sgd(model)
    batches = make_batches(6)
    batches[2][0][0, 0] = math.nan
    trainer = create_supervised_trainer(model, optimizer, nn.functional.mse_loss)
    GradientNormClipper(optimizer, 0.3, on_nonfinite=on_nonfinite, model=model).attach(trainer)
    told: list[str] = []
    on_notice(trainer, lambda engine, notice: told.append(notice.text))
    try:
        assert trainer.run(batches).metrics["skipped_updates"] == 1
    except RuntimeError as error:
        told.append(str(error))
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())
    assert told[0].endswith("; the forward pass left NaN in 1.running_mean, NaN in 1.running_var")
    model[1].reset_running_stats()
    trainer.run(batches[3:])
    assert model.eval()(batches[0][0]).isfinite().all()


def _scalars(folder: Path) -> dict[str, list[float]]:
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [point.value for point in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}
