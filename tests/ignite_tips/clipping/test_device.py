"""Clippers on an accelerator: what makes the host wait, what it leaves to the device, and what it learns later."""

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers import FastaiLRFinder
from ignite.handlers.base_logger import BaseOutputHandler
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from ignite_tips import GradientNormClipper, OptimizerEvents, attach_optimizer_events
from tests import device
from tests.ignite_tips.clipping.support import (
    CLIPPERS,
    KINDS,
    SIZE,
    Batch,
    Training,
    adamw,
    make_batches,
    poisoned,
    same,
    sgd,
)
from tests.oracles import TRAINED_IN_DOUBLE, assert_near, exact_norm, near_norm, rounding_of_norm, roundoff

device.start()
MakeOptimizer = Callable[..., torch.optim.Optimizer]


def on_device(make_optimizer: MakeOptimizer = adamw, **options: Any) -> Training:
    return Training(make_optimizer, device=device.NAME, **options)


def waits_by_update(training: Training, trainer: Engine, batches: list[Batch]) -> list[list[str]]:
    """Run the trainer; return what made the host wait in each ``optimizer.step()`` that it made."""
    step, waited = training.optimizer.step, []

    def watched(*args: Any, **kwargs: Any) -> Any:
        with device.waits() as waits:
            result = step(*args, **kwargs)
        waited.append(waits)
        return result

    training.optimizer.step = watched  # type: ignore[method-assign]
    trainer.run(batches)
    return waited


def test_the_device_tells_what_waits() -> None:
    """It tells of numbers read and of copies either way, not of kernels; a copy under way arrives when waited for."""
    x = torch.arange(3.0).to(device.NAME)
    for function in (lambda: x.sum().item(), x.cpu, lambda: torch.tensor(1.0, device=device.NAME), x.nonzero):
        with device.waits() as waits:
            function()
        assert waits
    host = torch.full((3,), -1.0, pin_memory=True)
    with device.waits() as waits:
        x.mul_(2).clamp_(max=3.0)
        host.copy_(x, non_blocking=True)
        event = torch.Event(device.NAME)
        event.record()
    assert waits == []
    event.synchronize()
    assert host.tolist() == [0.0, 2.0, 3.0]


@pytest.mark.parametrize("options", [{}, {"per_group": True}, {"norm_type": math.inf}], ids=str)
@pytest.mark.parametrize(
    ("kind", "on_nonfinite"), [("fused", "raise"), ("fused", "propagate"), ("foreach", "propagate")]
)
def test_no_norm_clipping_waits(kind: str, on_nonfinite: str, options: dict[str, Any]) -> None:
    """No update waits with "propagate", nor with "raise" and a fused optimizer; metrics are the device's tensors."""
    training = on_device(**KINDS[kind])
    GradientNormClipper(training.optimizer, 0.3, on_nonfinite=on_nonfinite, **options).attach(
        trainer := training.trainer()
    )
    assert waits_by_update(training, trainer, make_batches()) == [[]] * 8
    for name in ("grad_norm", "grad_clip_coef"):
        assert trainer.state.metrics[name].device.type == device.NAME
        assert trainer.state.metrics[name].dim() == 0


@pytest.mark.parametrize("clipper", ["value", "agc"])
@pytest.mark.parametrize(
    ("kind", "on_nonfinite"), [("fused", "raise"), ("fused", "propagate"), ("foreach", "propagate")]
)
def test_no_other_clipping_waits_either(clipper: str, kind: str, on_nonfinite: str) -> None:
    """But for the clippers whose bound is found on the host."""
    training = on_device(**KINDS[kind])
    CLIPPERS[clipper](training.optimizer, on_nonfinite=on_nonfinite).attach(trainer := training.trainer())
    assert waits_by_update(training, trainer, make_batches()) == [[]] * 8


@pytest.mark.parametrize(
    ("clipper", "kind", "on_nonfinite"),
    [
        ("norm", "foreach", "raise"),
        ("norm", "fused", "skip"),
        ("value", "foreach", "raise"),
        ("agc", "foreach", "skip"),
        ("auto", "fused", "raise"),
        ("auto", "foreach", "propagate"),
        ("z", "fused", "skip"),
        ("z", "foreach", "propagate"),
    ],
)
def test_what_waits_waits_once(clipper: str, kind: str, on_nonfinite: str) -> None:
    """A decision on the host takes one read of the norm in an update."""
    training = on_device(**KINDS[kind])
    CLIPPERS[clipper](training.optimizer, on_nonfinite=on_nonfinite).attach(trainer := training.trainer())
    assert [len(waits) for waits in waits_by_update(training, trainer, make_batches())] == [1] * 8


class Operations(TorchDispatchMode):
    """Counts what is asked of the device: what a GPU would start a kernel or a copy for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        tensors = tree_leaves((args, kwargs, result))
        self.count += any(isinstance(one, torch.Tensor) and one.device.type == device.NAME for one in tensors)
        return result


def operations(kind: str, layers: int, make_clipper: Callable[..., Any] | None, *, by_hand: bool = False) -> int:
    """Return how many operations the second update of so many layers takes, clipping included."""
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(layers))).to(device.NAME)
    optimizer = adamw(model, **KINDS[kind])
    counts = []

    def update(engine: Engine, x: torch.Tensor) -> None:
        optimizer.zero_grad()
        model(x).square().sum().backward()
        with Operations() as operations:
            if by_hand:
                clip_grad_norm_(model.parameters(), 0.3)
            optimizer.step()
        counts.append(operations.count)

    trainer = Engine(update)
    if make_clipper is not None:
        make_clipper(optimizer).attach(trainer)
    trainer.run([torch.ones(2, 3, device=device.NAME)] * 2)
    return counts[1]


@pytest.mark.parametrize(
    ("kind", "on_nonfinite", "more"),
    [("foreach", "propagate", 0), ("fused", "propagate", -2), ("fused", "skip", -1), ("fused", "raise", 2)],
)
@pytest.mark.parametrize("clipper", ["norm", "value"])
def test_what_it_asks_of_the_device_does_not_grow(clipper: str, kind: str, on_nonfinite: str, more: int) -> None:
    """With the layers; of the norm it is as much as clip_grad_norm_ asks, less two where folded.

    These are the pass over gradients and one of the factor's three operations.

    "raise" of a fused optimizer adds a flag in two operations, a copy, and torch's own correction of the step counts.
    """

    def make(optimizer: torch.optim.Optimizer) -> Any:
        return CLIPPERS[clipper](optimizer, on_nonfinite=on_nonfinite)

    few, many = (operations(kind, layers, make) - operations(kind, layers, None) for layers in (2, 9))
    assert few == many
    if clipper == "norm":
        assert few == operations(kind, 2, None, by_hand=True) - operations(kind, 2, None) + more


def _error_of_late_check(gradient: float) -> str:
    weights = [nn.Parameter(torch.zeros(1, device=device.NAME)) for _ in range(2)]
    optimizer = torch.optim.AdamW(weights, fused=True)

    def update(engine: Engine, value: float) -> None:
        for weight in weights:
            weight.grad = torch.full_like(weight, value)
        optimizer.step()

    GradientNormClipper(optimizer, 1.0).attach(trainer := Engine(update))
    with pytest.raises(RuntimeError, match=r" in update 2 of AdamW") as caught:
        trainer.run([1.0, gradient, 1.0])
    return str(caught.value)


def test_a_norm_that_overflows_is_not_called_infinite_gradients() -> None:
    """Each gradient is finite, their sum of squares is not, nor, where a GPU squares, each gradient's own norm."""
    told = _error_of_late_check(3e38)
    assert re.search(r"got .*a norm too large for its dtype,? in ", told)
    assert "rank" not in told


def test_the_late_error_claims_no_more_than_norms_tell() -> None:
    """An infinite norm is of an infinite gradient or of one too large; NaN is of a NaN alone."""
    both = "{0} in parameter 0 of group 0, {0} in parameter 1 of group 0 in update 2"
    assert both.format("inf, or a norm too large for its dtype,") in _error_of_late_check(math.inf)
    assert both.format("NaN") in _error_of_late_check(math.nan)


@pytest.mark.parametrize("clipper", ["norm", "value", "agc"])
def test_names_are_looked_up_for_messages_alone(clipper: str) -> None:
    """No update goes through the model's parameters by name, not even one whose error would come later."""
    training = on_device(fused=True)
    CLIPPERS[clipper](training.optimizer, model=training.model).attach(trainer := training.trainer())
    looked_up: list[int] = []
    named_parameters = training.model.named_parameters

    def watched(*args: Any, **kwargs: Any) -> Any:
        looked_up.append(trainer.state.iteration)
        return named_parameters(*args, **kwargs)

    training.model.named_parameters = watched  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match=r"NaN in 0\.weight"):
        trainer.run(poisoned(math.nan, at=4))
    assert looked_up == [5]


@pytest.mark.parametrize("clipper", CLIPPERS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("make_optimizer", [sgd, adamw])
@pytest.mark.parametrize("kind", KINDS)
def test_no_mode_changes_what_is_clipped(
    kind: str, make_optimizer: MakeOptimizer, precision: str, clipper: str
) -> None:
    """Whether the host decides or the device does, folded or not, finite gradients train to the same parameters."""
    options = {"precision": precision, "accumulate": 2, **KINDS[kind]}
    trained = []
    for on_nonfinite in ("skip", "raise", "propagate"):
        training = on_device(make_optimizer, **options)
        CLIPPERS[clipper](training.optimizer, on_nonfinite=on_nonfinite).attach(trainer := training.trainer())
        trainer.run(make_batches())
        trained.append(training)
    unclipped = on_device(make_optimizer, **options)
    unclipped.trainer().run(make_batches())
    assert same(trained[0], trained[1])
    assert same(trained[0], trained[2])
    assert not same(trained[0], unclipped, rtol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("make_optimizer", [sgd, adamw])
@pytest.mark.parametrize("on_nonfinite", ["raise", "propagate"])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_torch_on_the_device(
    kind: str, on_nonfinite: str, make_optimizer: MakeOptimizer, precision: str
) -> None:
    """Each update from one state is that of the loop with clip_grad_norm_: bit for bit, or but for rounding if folded.

    Folded, a gradient is divided by (norm + 1e-6) / max_norm, otherwise multiplied by max_norm / (norm + 1e-6): seven
    roundings between the two, twice that in Adam's square, and six more of the update itself. They are relative to what
    is added up, which is no larger than the sums before and after together. Of a parameter it is the step, which Adam
    may make of a moment that cancels out: of its learning rate times the root of the updates' number, below 0.03.
    """
    expected, training = (on_device(make_optimizer, precision=precision, **KINDS[kind]) for _ in range(2))
    GradientNormClipper(training.optimizer, 0.3, on_nonfinite=on_nonfinite).attach(trainer := training.trainer())
    allowed = (2 * 7 + 6) * roundoff() if kind == "fused" else 0.0
    parameters = len(list(training.model.parameters()))
    for number, batch in enumerate(make_batches(), 1):
        for part in ("model", "optimizer", "scaler"):
            state = tree_map_only(torch.Tensor, torch.clone, getattr(training, part).state_dict())
            getattr(expected, part).load_state_dict(state)
        (norm,) = expected.by_hand(lambda model: clip_grad_norm_(model.parameters(), 0.3).item(), [batch])
        before = [tensor.abs() for tensor in training.tensors()]
        metrics = trainer.run([batch], max_epochs=number).metrics
        for place, (one, other) in enumerate(zip(training.tensors(), expected.tensors(), strict=True)):
            added = other.abs() + (before[place] if place < len(before) else 0.0)  # at first there is no state
            added += 0.03 if place < parameters else 0.0
            assert ((one - other).abs() <= allowed * added).all()
        assert float(metrics["grad_norm"]) == pytest.approx(norm, rel=2 * rounding_of_norm(SIZE))


@pytest.mark.parametrize("clipper", ["norm", "value", "agc"])
@pytest.mark.parametrize("make_optimizer", [sgd, adamw])
def test_raise_speaks_at_the_next_update(make_optimizer: MakeOptimizer, clipper: str) -> None:
    """With a fused optimizer the kernel drops the update; the error comes before the next is made."""
    expected = on_device(make_optimizer, fused=True)
    CLIPPERS[clipper](expected.optimizer).attach(trainer := expected.trainer())
    trainer.run(make_batches()[:2])
    training = on_device(make_optimizer, fused=True)
    CLIPPERS[clipper](training.optimizer, model=training.model).attach(trainer := training.trainer())
    found = ", ".join(f"NaN in {name}" for name in ("0.weight", "0.bias", "2.weight", "2.bias"))
    message = rf"{found} in update 3 of \w+ \(iteration 3, epoch 1\)"
    with pytest.raises(RuntimeError, match=message):
        trainer.run(poisoned(math.nan))
    assert same(training, expected)
    assert trainer.state.iteration == 4


def test_raise_speaks_at_the_end_of_an_epoch() -> None:
    """An update left out by the device in the last iteration is told when the epoch ends."""
    training = on_device(fused=True)
    GradientNormClipper(training.optimizer, 0.3).attach(trainer := training.trainer())
    with pytest.raises(RuntimeError, match=r"in update 6 of AdamW \(iteration 6, epoch 1\)"):
        trainer.run(poisoned(math.nan, at=6), max_epochs=2)
    assert trainer.state.iteration == 6  # not at the first update of the next epoch


@pytest.mark.parametrize("kind", ["ordinary", "foreach"])
@pytest.mark.parametrize("clipper", CLIPPERS)
def test_raise_speaks_at_once_without_a_fused_kernel(clipper: str, kind: str) -> None:
    """Where no kernel can leave the update out, the host decides before it; all is as before the update."""
    expected, training = (on_device(**KINDS[kind]) for _ in range(2))
    CLIPPERS[clipper](expected.optimizer).attach(trainer := expected.trainer())
    trainer.run(make_batches()[:2])
    CLIPPERS[clipper](training.optimizer, model=training.model).attach(trainer := training.trainer())
    with pytest.raises(RuntimeError, match=r"got NaN in 0.weight, .* in update 3 of AdamW \(iteration 3, epoch 1\)"):
        trainer.run(poisoned(math.nan))
    assert same(training, expected)
    assert trainer.state.optimizer_step == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clipper", CLIPPERS)
def test_skip_leaves_no_trace(clipper: str, kind: str) -> None:
    """With "skip" the run equals that without the poisoned batch."""
    expected, training = (on_device(sgd, **KINDS[kind]) for _ in range(2))
    batches = poisoned(math.nan)
    CLIPPERS[clipper](expected.optimizer).attach(trainer := expected.trainer())
    trainer.run(batches[:2] + batches[3:])
    CLIPPERS[clipper](training.optimizer, on_nonfinite="skip").attach(trainer := training.trainer())
    state = trainer.run(batches)
    assert same(training, expected)
    assert (state.optimizer_step, state.metrics["skipped_steps"]) == (5, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_propagate_does_as_torch(kind: str) -> None:
    """With "propagate" a NaN is used as by clip_grad_norm_."""
    expected, training = (on_device(sgd, **KINDS[kind]) for _ in range(2))
    batches = poisoned(math.nan, at=6)
    expected.by_hand(lambda model: clip_grad_norm_(model.parameters(), 0.3), batches)
    GradientNormClipper(training.optimizer, 0.3, on_nonfinite="propagate").attach(trainer := training.trainer())
    trainer.run(batches)
    for one, other in zip(training.tensors(), expected.tensors(), strict=True):
        assert torch.equal(one.isnan(), other.isnan())
        assert one.isnan().all()


def test_first_fused_sgd_update_is_decided_on_the_host() -> None:
    """Torch's fused SGD would keep uninitialised momentum if its first kernel skipped: no such update is begun."""
    training = on_device(sgd, fused=True)
    GradientNormClipper(training.optimizer, 0.3).attach(trainer := training.trainer())
    with pytest.raises(RuntimeError, match="in update 1 of SGD"):
        trainer.run(poisoned(math.nan, at=1))
    assert not training.optimizer.state_dict()["state"]


@pytest.mark.parametrize("lose", ["load_state_dict", "clear", "add_param_group"])
def test_momentum_that_is_lost_is_made_on_a_decision_of_the_host(lose: str) -> None:
    """However buffers came to be missing again after updates that the device was left to decide."""
    training = on_device(sgd, fused=True)
    GradientNormClipper(training.optimizer, 0.3).attach(trainer := training.trainer())
    waits = waits_by_update(training, trainer, make_batches()[:3])
    if lose == "load_state_dict":
        fresh = on_device(sgd, fused=True).optimizer.state_dict()
        training.optimizer.load_state_dict(fresh)
    elif lose == "clear":
        training.optimizer.state.clear()
    else:
        extra = nn.Parameter(torch.ones(2, device=device.NAME))
        extra.grad = torch.ones(2, device=device.NAME)
        training.optimizer.add_param_group({"params": [extra]})
    trainer.run(make_batches()[:3], max_epochs=2)
    assert [len(one) for one in waits] == [1, 0, 0, 1, 0, 0]


@pytest.mark.parametrize("clipper", ["norm", "value", "agc"])
def test_the_late_error_names_those_that_had_a_gradient(clipper: str) -> None:
    """Also where others have none."""
    training = on_device(fused=True)
    training.model[0].requires_grad_(False)
    CLIPPERS[clipper](training.optimizer, model=training.model).attach(trainer := training.trainer())
    with pytest.raises(RuntimeError, match=r"got NaN in 2\.weight, NaN in 2\.bias in update 3"):
        trainer.run(poisoned(math.nan))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("on_nonfinite", ["raise", "propagate"])
def test_what_grad_scaler_skips_is_no_update(on_nonfinite: str, kind: str) -> None:
    """An overflow that GradScaler finds is no error, and fires no event: where a kernel skips, the host has to ask."""
    training = on_device(precision="fp16", **KINDS[kind])
    GradientNormClipper(training.optimizer, 0.3, on_nonfinite=on_nonfinite).attach(trainer := training.trainer())
    waits = waits_by_update(training, trainer, poisoned(math.inf))
    assert trainer.state.optimizer_step == 5
    per_update = 0 if kind != "fused" and on_nonfinite == "propagate" else 1
    assert [len(one) for one in waits] == [per_update] * (6 if kind == "fused" else 5)


class Across(Training):
    """The second layer is on another device than the first, which is on the CPU."""

    def __init__(self, other: str, dtype: torch.dtype = torch.float32, **options: Any) -> None:
        super().__init__(dtype=dtype, **options)
        self.other = other
        self.model[2].to(other)
        self.optimizer = sgd(self.model, **options)

    def backward(self, batch: Batch) -> torch.Tensor:
        hidden = self.model[1](self.model[0](batch[0])).to(self.other)
        loss = nn.functional.mse_loss(self.model[2](hidden), batch[1].to(self.other))
        loss.backward()
        return loss


@pytest.mark.parametrize("kind", ["ordinary", "foreach"])
@pytest.mark.parametrize("max_norm", [0.3, 1e9])
def test_parameters_on_two_devices_have_one_norm(max_norm: float, kind: str) -> None:
    """In every update it is that of all gradients as one vector, and what they are scaled by follows from it."""
    training = Across(device.NAME, **KINDS[kind])
    trainer = training.trainer()
    attach_optimizer_events(trainer, training.optimizer)
    before: list[list[torch.Tensor]] = []
    checked: list[int] = []

    @trainer.on(OptimizerEvents.STEP_STARTED)
    def remember() -> None:
        before.append(training.gradients())

    GradientNormClipper(training.optimizer, max_norm).attach(trainer)

    @trainer.on(OptimizerEvents.STEP_STARTED)
    def check() -> None:
        assert float(trainer.state.metrics["grad_norm"]) == near_norm(before[-1])
        factor = min(1.0, max_norm / (exact_norm(before[-1]) + 1e-6))
        # The factor is rounded four times after the norm, and then the product.
        allowed = 0.0 if factor == 1 else rounding_of_norm(SIZE) + 5 * roundoff()
        assert_near(training.gradients(), [gradient.cpu().double() * factor for gradient in before[-1]], allowed)
        checked.append(trainer.state.iteration)

    trainer.run(make_batches())
    assert checked == list(range(1, 9))


@pytest.mark.parametrize("kind", ["ordinary", "foreach"])
@pytest.mark.parametrize("max_norm", [0.3, 1e9])
def test_parameters_on_two_devices_train_as_by_hand(max_norm: float, kind: str) -> None:
    """With clip_grad_norm_, which adds the devices' norms in an order of its own; in double precision."""
    expected, training = (Across(device.NAME, torch.float64, **KINDS[kind]) for _ in range(2))
    batches = make_batches(dtype=torch.float64)
    expected.by_hand(lambda model: clip_grad_norm_(model.parameters(), max_norm), batches)
    GradientNormClipper(training.optimizer, max_norm).attach(trainer := training.trainer())
    trainer.run(batches)
    assert same(training, expected, rtol=TRAINED_IN_DOUBLE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clipper", CLIPPERS)
def test_every_clipper_takes_two_devices(clipper: str, kind: str) -> None:
    """Parameters on the CPU and on the device are clipped as if all were on the CPU; a NaN is told of at once."""
    trained, factors = [], []
    for other in ("cpu", device.NAME):
        training = Across(other, torch.float64, **KINDS[kind])
        CLIPPERS[clipper](training.optimizer, model=training.model).attach(trainer := training.trainer())
        factors.append(float(trainer.run(make_batches(dtype=torch.float64)).metrics["grad_clip_coef"]))
        trained.append([tensor.cpu().clone() for tensor in training.tensors()])
        with pytest.raises(RuntimeError, match=r"NaN in 0\.weight.* \(iteration 11, epoch 2\)"):
            trainer.run(poisoned(math.nan, dtype=torch.float64), max_epochs=2)
    assert factors[0] == pytest.approx(factors[1], rel=TRAINED_IN_DOUBLE)
    for one, two in zip(*trained, strict=True):
        torch.testing.assert_close(one, two, rtol=TRAINED_IN_DOUBLE, atol=TRAINED_IN_DOUBLE)


@pytest.mark.parametrize("on_nonfinite", ["raise", "propagate"])
def test_groups_on_two_devices_are_clipped_each(on_nonfinite: str) -> None:
    """With per_group each group has a norm on its own device; the metric is that of both."""
    parameters = [nn.Parameter(torch.zeros(4, device=where)) for where in (device.NAME, "cpu")]
    optimizer = torch.optim.SGD([{"params": [parameter]} for parameter in parameters], lr=1.0)

    def update(engine: Engine, batch: int) -> None:
        for parameter, value in zip(parameters, (1.5, 2.0), strict=True):
            parameter.grad = torch.full_like(parameter, value)
        optimizer.step()

    clipper = GradientNormClipper(optimizer, 2.0, per_group=True, on_nonfinite=on_nonfinite)
    clipper.attach(trainer := Engine(update))
    metrics = trainer.run([0]).metrics
    assert (float(metrics["grad_norm"]), float(metrics["grad_clip_coef"])) == pytest.approx((5.0, 0.5))
    for parameter in parameters:
        assert parameter.tolist() == pytest.approx([-1.0] * 4)


@pytest.mark.parametrize("clipper", CLIPPERS)
@pytest.mark.parametrize("where", ["cpu", device.NAME])
@pytest.mark.parametrize("kind", ["foreach", "fused"])
def test_the_default_device_does_not_matter(kind: str, where: str, clipper: str) -> None:
    """What is made on the host is made there, also where tensors are made on the device by default."""
    expected, training = (Training(adamw, device=where, **KINDS[kind]) for _ in range(2))
    batches = make_batches()
    CLIPPERS[clipper](expected.optimizer).attach(trainer := expected.trainer())
    trainer.run(batches, max_epochs=2)
    CLIPPERS[clipper](training.optimizer).attach(trainer := training.trainer())
    trainer.run(batches)  # torch's AdamW makes its step counts, which are to be on the CPU, where the default is
    with torch.device(device.NAME):
        waits = waits_by_update(training, trainer, batches)
    assert same(training, expected)
    if where == device.NAME and kind == "fused" and clipper in ("norm", "value", "agc"):
        assert waits == [[]] * 8


def test_detaching_tells_of_an_update_that_was_left_out() -> None:
    """The error that would have come at the next update comes then; it is detached all the same."""
    training = on_device(fused=True)
    clipper = GradientNormClipper(training.optimizer, 0.3).attach(trainer := training.trainer())
    told: list[str] = []

    def detach(engine: Engine) -> None:
        if engine.state.iteration == 3:
            with pytest.raises(RuntimeError, match=r"NaN in .* in update 3 of AdamW") as caught:
                clipper.detach()
            told.append(str(caught.value))

    trainer.add_event_handler(Events.ITERATION_COMPLETED, detach)
    trainer.run(poisoned(math.nan))
    assert len(told) == 1
    clipper.detach()


def test_loggers_read_device_metrics() -> None:
    """What is a tensor, not to wait for the device, is what Ignite's ProgressBar and loggers read as a number."""
    training = on_device()
    GradientNormClipper(training.optimizer, 0.3, on_nonfinite="propagate").attach(trainer := training.trainer())
    trainer.run(make_batches())

    class Handler(BaseOutputHandler):
        def __call__(self, engine: Any, logger: Any, event_name: Any) -> None: ...

    handler = Handler("train", metric_names=["grad_norm", "grad_clip_coef"])
    values = handler._setup_output_metrics_state_attrs(trainer)
    assert {key[-1] for key in values} == {"grad_norm", "grad_clip_coef"}


@pytest.mark.filterwarnings("ignore:Run completed without loss diverging")  # to Ignite a NaN does not diverge
def test_a_search_for_the_learning_rate_ends_an_update_later() -> None:
    """Where the kernel skips the update with the NaN, the finder's run ends at the next update, without an error."""
    training = on_device(sgd, fused=True)
    GradientNormClipper(training.optimizer, 0.3).attach(trainer := training.trainer())
    with FastaiLRFinder().attach(trainer, {"optimizer": training.optimizer}, output_transform=float) as searching:
        searching.run(poisoned(math.nan))
        assert trainer.state.iteration == 4
