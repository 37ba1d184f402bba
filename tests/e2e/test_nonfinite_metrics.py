"""NaN and infinite losses, metrics, learning rates and norms: what is logged, and what a plateau does with them."""

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint
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
from tests.e2e.sameness import saved
from tests.ignite_tips.clipping.support import Batch, Training, make_batches, make_model, sgd


@pytest.mark.parametrize("on_nonfinite", ["skip", "raise"])
def test_a_nan_loss_with_finite_gradients_is_no_reason_to_skip(on_nonfinite: str, tmp_path: Path) -> None:
    """With finite gradients the update is made, and the NaN loss is written as NaN."""
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
    assert (state.optimizer_step, state.metrics["skipped_steps"]) == (3, 0)
    assert [math.isnan(value) for value in _scalars(tmp_path)["train/loss"]] == [False, True, False]


class Validated:
    """A training run that is validated after each epoch, with these losses."""

    def __init__(self, losses: list[float], options: dict[str, Any]) -> None:
        self.lrs: list[float] = []
        self.optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
        self.trainer = Engine(lambda engine, batch: self.optimizer.step())
        evaluator = Engine(lambda engine, batch: None)
        self.plateau = PlateauStepper(ReduceLROnPlateau(self.optimizer, **options))

        @evaluator.on(Events.COMPLETED)
        def compute() -> None:
            evaluator.state.metrics["loss"] = losses[self.trainer.state.epoch - 1]

        @self.trainer.on(Events.EPOCH_COMPLETED)
        def validate() -> None:
            evaluator.run([0])
            self.lrs.append(self.optimizer.param_groups[0]["lr"])

        self.plateau.attach(self.trainer, evaluator)

    def run(self, epochs: int) -> "Validated":
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "PlateauStepper got .*; the scheduler was not stepped", UserWarning)
            self.trainer.run([0], max_epochs=epochs)
        return self

    def parts(self) -> dict[str, Any]:
        return {"trainer": self.trainer, "optimizer": self.optimizer, "plateau": self.plateau}


@given(
    losses=st.lists(st.sampled_from([math.nan, math.inf, -math.inf, 3.0, 2.0, 1.0]), min_size=2, max_size=12),
    patience=st.integers(0, 2),
    mode=st.sampled_from(["min", "max"]),
    data=st.data(),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_plateau_of_metrics_that_are_not_finite(
    losses: list[float], patience: int, mode: str, data: st.DataObject
) -> None:
    """It equals torch's without the NaN and infinitely good metrics, also if resumed between any two."""
    options = {"mode": mode, "factor": 0.5, "patience": patience}
    whole = Validated(losses, options).run(len(losses))
    native = ReduceLROnPlateau(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0), **options)
    expected = []
    for loss in losses:
        if not (math.isnan(loss) or loss == {"min": -math.inf, "max": math.inf}[mode]):
            native.step(loss)
        expected.append(native.optimizer.param_groups[0]["lr"])
    assert whole.lrs == expected

    stop = data.draw(st.integers(1, len(losses) - 1))
    first, second = Validated(losses, options).run(stop), Validated(losses, options)
    Checkpoint.load_objects(second.parts(), saved(first.parts()))
    assert first.lrs + second.run(len(losses)).lrs == expected
    assert saved(second.parts()) == saved(whole.parts())


def test_loggers_write_what_is_not_finite(tmp_path: Path) -> None:
    """A learning rate, a norm and a metric that are NaN or infinite are written unchanged, and left out of drawings."""
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


def _scalars(folder: Path) -> dict[str, list[float]]:
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [point.value for point in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}
