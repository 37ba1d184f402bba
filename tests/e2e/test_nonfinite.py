"""NaN and infinity at drawn moments of a training run: in a batch, in its loss, in a gradient."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.engine import Engine, Events, create_supervised_trainer
from torch import nn

from ignite_tips import GradientNormClipper
from ignite_tips.core.wiring import on_annotation
from tests.e2e.sameness import differences, saved
from tests.ignite_tips.clipping.support import CLIPPERS, Batch, Training, adamw, make_batches, same, sgd
from tests.settings import seeded

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
    """A non-finite value in one update: in an input, a target, or a gradient after the backward pass."""

    where: str
    value: float
    place: int


@dataclass(frozen=True)
class Case:
    """A training run, and the updates at which it has a fault."""

    clipper: str
    optimizer: str
    precision: str
    accumulation: int
    faults: dict[int, Fault]

    def batches(self, *, whole: bool) -> list[Batch]:
        """The batches of all updates, with their faults, or of the updates without a fault."""
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
        """Return an engine that puts the faults into gradients if ``whole``."""

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
    """Parameters and optimizer state stay finite, and at the end equal those of a run without faults."""
    training, trainer, clipper = case.train(whole=True, on_nonfinite="skip")
    finite: list[bool] = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: finite.append(_are_finite(training.tensors())))
    state = trainer.run(case.batches(whole=True))
    assert all(finite)
    assert len(finite) == UPDATES * case.accumulation
    assert state.optimizer_step == UPDATES - len(case.faults)
    # GradScaler itself skips what it finds, before a clipper sees it.
    assert state.metrics["skipped_steps"] == (0 if case.precision == "fp16" else len(case.faults))

    expected, other, _ = case.train(whole=False, on_nonfinite="skip")
    if len(case.faults) < UPDATES:
        other.run(case.batches(whole=False))
    assert same(training, expected)
    norms = saved({"clipper": clipper})["clipper"].get("rule", {}).get("norms", [])
    assert all(map(math.isfinite, norms))
    assert len(norms) in (0, state.optimizer_step)


@given(case=cases(least=1, precisions=("fp32", "bf16")))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_raise_changes_nothing(case: Case) -> None:
    """The first fault ends the run; the error names the update and, if there is one, the parameter."""
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
@pytest.mark.parametrize("clipper", [name for name in CLIPPERS if name != "value"])
def test_gradients_too_large_to_measure_are_skipped(clipper: str, optimizer: str) -> None:
    """Finite gradients whose norm overflows cannot be scaled to a threshold: their update is skipped and counted."""
    case = Case(clipper, optimizer, "fp32", 1, {3: Fault("gradient", 1e30, 0), 4: Fault("gradient", -3e38, 1)})
    training, trainer, _ = case.train(whole=True, on_nonfinite="skip")
    state = trainer.run(case.batches(whole=True))
    expected, other, _ = case.train(whole=False, on_nonfinite="skip")
    other.run(case.batches(whole=False))
    assert same(training, expected)
    assert (state.optimizer_step, state.metrics["skipped_steps"]) == (UPDATES - 2, 2)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_values_are_clipped_however_large_they_are(optimizer: str) -> None:
    """A value clipper needs no norm: finite gradients of any size are clipped, and no update is skipped."""
    case = Case("value", optimizer, "fp32", 1, {3: Fault("gradient", 1e30, 0), 4: Fault("gradient", -3e38, 1)})
    _, trainer, _ = case.train(whole=True, on_nonfinite="skip")
    state = trainer.run(case.batches(whole=True))
    assert (state.optimizer_step, state.metrics["skipped_steps"]) == (UPDATES, 0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("clipper", ["auto", "z"])
def test_a_propagated_norm_is_not_remembered(clipper: str, value: float) -> None:
    """A NaN that propagates is not added to the history of norms."""
    case = Case(clipper, "sgd", "fp32", 1, {4: Fault("gradient", value, 0)})
    _, trainer, handler = case.train(whole=True, on_nonfinite="propagate")
    trainer.run(case.batches(whole=True))
    _, before, expected = case.train(whole=True, on_nonfinite="propagate")
    before.run(case.batches(whole=True)[:3])
    assert differences(saved({"rule": expected}), saved({"rule": handler})) == []


@pytest.mark.parametrize("on_nonfinite", ["skip", "raise"])
def test_batchnorm_statistics_of_a_nan_batch_stay(on_nonfinite: str) -> None:
    """Nothing undoes what the forward pass left in BatchNorm: a message says so, and BatchNorm's reset fixes it."""
    torch.manual_seed(seeded())
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.Linear(8, 1))
    optimizer = sgd(model)
    batches = make_batches(6)
    batches[2][0][0, 0] = math.nan
    trainer = create_supervised_trainer(model, optimizer, nn.functional.mse_loss)
    GradientNormClipper(optimizer, 0.3, on_nonfinite=on_nonfinite, model=model).attach(trainer)
    told: list[str] = []
    on_annotation(trainer, lambda engine, annotation: told.append(annotation.text))
    try:
        assert trainer.run(batches).metrics["skipped_steps"] == 1
    except RuntimeError as error:
        told.append(str(error))
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())
    assert told[0].endswith("; the forward pass left NaN in 1.running_mean, NaN in 1.running_var")
    model[1].reset_running_stats()
    trainer.run(batches[3:])
    assert model.eval()(batches[0][0]).isfinite().all()
