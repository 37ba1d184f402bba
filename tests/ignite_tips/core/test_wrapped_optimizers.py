"""Optimizers whose updates torch's hooks do not see, or see at another moment: right, or refused with a remedy."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import StepLR

import ignite_tips as tips
from ignite_tips import GradientNormClipper, LearningRateLogger, SchedulerStepper, attach_optimizer_events

INPUTS = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))


def _model() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(2, 2)


def _backward(model: nn.Module, batch: int) -> torch.Tensor:
    loss = model(INPUTS[batch]).square().sum()
    loss.backward()
    return loss


class _Wrapper(Optimizer):
    """As in several libraries: it takes over another optimizer's groups and never calls ``Optimizer.__init__``."""

    def __init__(self, inner: Optimizer) -> None:
        self.inner = inner
        self.param_groups, self.state, self.defaults = inner.param_groups, inner.state, inner.defaults

    def step(self, closure: Any = None) -> Any:
        return self.inner.step(closure)


class _WrapperWithTables(_Wrapper):
    """It has tables of hooks, which can be filled and are never read."""

    def __init__(self, inner: Optimizer) -> None:
        super().__init__(inner)
        self._optimizer_step_pre_hooks = OrderedDict()
        self._optimizer_step_post_hooks = OrderedDict()


class _Hidden(_Wrapper):
    """Its inner optimizer is in none of its attributes."""

    def __init__(self, inner: Optimizer) -> None:
        super().__init__(inner)
        del self.inner
        self.parts = [inner]

    def step(self, closure: Any = None) -> Any:
        return self.parts[0].step(closure)


class _WithoutGroups(_Wrapper):
    """It has no groups of its own."""

    def __init__(self, inner: Optimizer) -> None:
        self.inner = inner


ATTACHED: dict[str, Callable[[Optimizer, Engine], Any]] = {
    "attach_optimizer_events": lambda optimizer, trainer: attach_optimizer_events(trainer, optimizer),
    "GradientNormClipper": lambda optimizer, trainer: GradientNormClipper(optimizer, max_norm=0.1).attach(trainer),
    "LearningRateLogger": lambda optimizer, trainer: LearningRateLogger(optimizer).attach(trainer),
    "SchedulerStepper": lambda optimizer, trainer: SchedulerStepper(StepLR(optimizer, 1)).attach(trainer),
}


@pytest.mark.parametrize("attach", ATTACHED.values(), ids=ATTACHED)
@pytest.mark.parametrize("wrapper", [_Wrapper, _WrapperWithTables, _Hidden])
def test_a_wrapper_that_hooks_do_not_see_is_refused(wrapper: type[_Wrapper], attach: Callable[..., Any]) -> None:
    """With the inner optimizer instead, as the message says, every update is seen."""
    model = _model()
    inner = SGD(model.parameters(), lr=0.1)
    optimizer = wrapper(inner)
    trainer = Engine(lambda engine, batch: (_backward(model, batch), optimizer.step()))
    name = "" if wrapper is _Hidden else ", optimizer.inner,"
    with pytest.raises(
        TypeError, match=f"got {wrapper.__name__}, a wrapper .*; give .* the inner optimizer{name} instead"
    ):
        attach(optimizer, trainer)
    attach(inner, trainer)
    trainer.run(range(3))
    assert trainer.state.optimizer_step == 3


class _Sam(Optimizer):
    """Sharpness-aware minimization: a step up, gradients anew, and the inner optimizer's update from where it began.

    The two halves may be called by themselves, and then its own ``step()`` never runs.
    """

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, {"lr": lr})
        self.base_optimizer = SGD(self.param_groups, lr=lr)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self) -> None:
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["before"] = parameter.clone()
            parameter.add_(parameter.grad, alpha=0.05)
        self.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.copy_(self.state[parameter]["before"])
        self.base_optimizer.step()
        self.zero_grad()

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.first_step()
        torch.enable_grad()(closure)()
        self.second_step()


def _train_sam(as_closure: bool, attach: Callable[[_Sam, Engine], Any] | None) -> tuple[torch.Tensor, Any]:
    """Train with the second gradients clipped, by handlers or else by hand."""
    model = _model()
    optimizer = _Sam(model.parameters(), lr=0.1)

    def second_backward() -> None:
        _backward(model, trainer.state.batch)
        if attach is None:
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)

    def update(engine: Engine, batch: int) -> None:
        _backward(model, batch)
        if as_closure:
            optimizer.step(second_backward)
        else:
            optimizer.first_step()
            second_backward()
            optimizer.second_step()

    trainer = Engine(update)
    if attach is not None:
        attach(optimizer, trainer)
    trainer.run(range(3))
    return nn.utils.parameters_to_vector(model.parameters()), trainer.state


@pytest.mark.parametrize("as_closure", [True, False], ids=["step", "two halves"])
def test_an_optimizer_that_updates_by_its_inner_one(as_closure: bool) -> None:
    """A handler of the inner optimizer is right in either use, and one of the outer wherever its ``step()`` runs."""
    expected, _ = _train_sam(as_closure, None)

    def inner(optimizer: _Sam, trainer: Engine) -> None:
        GradientNormClipper(optimizer.base_optimizer, max_norm=0.1).attach(trainer)

    def outer(optimizer: _Sam, trainer: Engine) -> None:
        GradientNormClipper(optimizer, max_norm=0.1).attach(trainer)

    for attach in (inner, outer) if as_closure else (inner,):
        weights, state = _train_sam(as_closure, attach)
        assert torch.equal(weights, expected)
        assert state.optimizer_step == 3
    if not as_closure:
        message = (
            r"_Sam must make its updates in its own step\(\), but its inner SGD made one outside it; give .*base_optimi"
        )
        with pytest.raises(RuntimeError, match=message):
            _train_sam(as_closure, outer)


def test_an_inner_optimizer_is_free_outside_the_run() -> None:
    """Its updates before and after the run, and after detaching, are nobody's business."""
    model = _model()
    optimizer = _Sam(model.parameters(), lr=0.1)
    trainer = Engine(lambda engine, batch: None)
    attach_optimizer_events(trainer, optimizer)
    optimizer.base_optimizer.step()
    trainer.run(range(1))
    optimizer.base_optimizer.step()
    tips.detach_optimizer_events(trainer, optimizer)
    assert not optimizer.base_optimizer._optimizer_step_pre_hooks


def _released(optimizers: dict[nn.Parameter, Optimizer]) -> None:
    """Step each parameter's optimizer as soon as its gradient is accumulated, and free the gradient."""

    def update(parameter: torch.Tensor) -> None:
        optimizers[parameter].step()  # type: ignore[index]
        parameter.grad = None

    for parameter in optimizers:
        parameter.register_post_accumulate_grad_hook(update)


def test_a_wrapper_without_groups_is_refused() -> None:
    """Its inner optimizer is named all the same."""
    optimizer = _WithoutGroups(SGD(_model().parameters(), lr=0.1))
    with pytest.raises(
        TypeError, match=r"got _WithoutGroups, a wrapper .*; give .* the inner optimizer, optimizer.inner,"
    ):
        attach_optimizer_events(Engine(lambda engine, batch: None), optimizer)


def test_another_optimizer_in_an_attribute_is_free() -> None:
    """An optimizer of other parameters makes its updates when it likes."""
    models = _model(), _model()
    optimizer = SGD(models[0].parameters(), lr=0.1)
    optimizer.other = SGD(models[1].parameters(), lr=0.1)  # type: ignore[attr-defined]
    trainer = Engine(lambda engine, batch: (optimizer.other.step(), optimizer.step()))  # type: ignore[attr-defined]
    attach_optimizer_events(trainer, optimizer)
    trainer.run(range(2))
    assert trainer.state.optimizer_step == 2


def test_gradient_release_with_an_optimizer_for_each_parameter_is_right() -> None:
    """Each optimizer's gradient is final when it is stepped within backward()."""
    model, reference = _model(), _model()
    optimizers: dict[nn.Parameter, Optimizer] = {
        parameter: SGD([parameter], lr=0.1) for parameter in model.parameters()
    }
    _released(optimizers)
    trainer = Engine(lambda engine, batch: _backward(model, batch))
    for index, optimizer in enumerate(optimizers.values()):
        GradientNormClipper(optimizer, max_norm=0.1, tag=str(index)).attach(trainer)
    trainer.run(range(3))
    by_hand = SGD(reference.parameters(), lr=0.1)
    for batch in range(3):
        _backward(reference, batch)
        for parameter in reference.parameters():
            nn.utils.clip_grad_norm_([parameter], 0.1)
        by_hand.step()
        by_hand.zero_grad()
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), reference.parameters(), strict=True))
    assert trainer.state.optimizer_steps == [3, 3]


def test_gradient_release_with_one_optimizer_is_refused() -> None:
    """Its other gradients are not final; without handlers it works as ever."""
    model = _model()
    optimizer = SGD(model.parameters(), lr=0.1)
    _released(dict.fromkeys(model.parameters(), optimizer))
    trainer = Engine(lambda engine, batch: _backward(model, batch))
    clipper = GradientNormClipper(optimizer, max_norm=0.1).attach(trainer)
    message = (
        r"SGD must be stepped after backward\(\), when .* within it; create an optimizer for each parameter, or detach"
    )
    with pytest.raises(RuntimeError, match=message):
        trainer.run(range(3))
    clipper.detach()
    trainer.run(range(3))


class _Particular(SGD):
    """Its step() takes more than a closure, and tells what it got."""

    def step(self, closure: Any = None, factor: float = 1.0, *, note: str = "") -> Any:  # type: ignore[override]
        loss = closure() if callable(closure) else closure
        super().step()
        return loss, factor, note


@pytest.mark.parametrize(
    ("arguments", "keywords", "expected"),
    [
        ((lambda: 7,), {"note": "a"}, (7, 1.0, "a")),
        ((lambda: 7, 2.0), {"note": "a"}, (7, 2.0, "a")),
        ((), {"closure": lambda: 7, "factor": 3.0}, (7, 3.0, "")),
        ((None, 2.0), {}, (None, 2.0, "")),
        ((5,), {"factor": 2.0}, (5, 2.0, "")),
    ],
    ids=["a keyword", "two arguments", "only keywords", "no closure", "not a closure"],
)
def test_a_steps_other_arguments_arrive(arguments: Any, keywords: Any, expected: Any) -> None:
    """A closure is wrapped to see its gradients; whatever else step() is given stays."""
    model = _model()
    optimizer = _Particular(model.parameters(), lr=0.1)
    got = []
    trainer = Engine(lambda engine, batch: got.append(optimizer.step(*arguments, **keywords)))
    attach_optimizer_events(trainer, optimizer)
    trainer.run(range(2))
    assert got == [expected] * 2
    assert trainer.state.optimizer_step == 2
