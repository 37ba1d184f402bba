"""Remedies that errors and warnings about clippers name: each is followed and works."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from torch import nn
from torch.optim import LBFGS, SGD, Optimizer

from ignite_tips import (
    AdaptiveGradientClipper,
    GradientNormClipper,
    GradientValueClipper,
    ZClipper,
    attach_optimizer_events,
    clip_gradient_norm,
)


class _Scene:
    """A trainer that gives its parameter a gradient, of norm 5 unless told otherwise, and steps its optimizer."""

    def __init__(self, *, dtype: torch.dtype = torch.float32, gradient: torch.Tensor | None = None) -> None:
        self.model = nn.Linear(2, 1, dtype=dtype)
        self.parameter = self.model.weight
        self.optimizer: Any = SGD(self.model.parameters(), lr=0.1)
        self.gradient = torch.tensor([[3.0, 4.0]], dtype=dtype) if gradient is None else gradient
        self.trainer = Engine(self._update)
        self.trainer.logger.disabled = True

    def _update(self, engine: Engine, batch: Any) -> None:
        self.parameter.grad = self.gradient.clone()
        self.optimizer.step()

    def norm_after_run(self) -> float:
        """Run one update; return the norm of what it used."""
        self.trainer.run([0])
        assert self.parameter.grad is not None
        return float(torch.linalg.vector_norm(self.parameter.grad.to_dense()))


def _sparse(follow: str) -> None:
    places, values = torch.tensor([[0, 0], [0, 1]]), torch.tensor([3.0, 4.0])
    scene = _Scene(gradient=torch.sparse_coo_tensor(places, values, (1, 2), check_invariants=True).coalesce())
    exclude = "weight" if follow == "exclude" else ()
    clipper: Any = AdaptiveGradientClipper(scene.optimizer, model=scene.model, exclude=exclude)
    if follow == "norm":
        clipper = GradientNormClipper(scene.optimizer, 1.0)
    clipper.attach(scene.trainer)
    assert scene.norm_after_run() == pytest.approx(5.0 if follow == "exclude" else 1.0, rel=1e-5)


def _complex(follow: str) -> None:
    scene = _Scene(dtype=torch.complex64)
    kind: Any = GradientNormClipper if follow else GradientValueClipper
    kind(scene.optimizer, 1.0).attach(scene.trainer)
    assert scene.norm_after_run() == pytest.approx(1.0, rel=1e-5)


def _uncoalesced(follow: str) -> None:
    parameter = nn.Parameter(torch.zeros(2))
    places, values = torch.tensor([[0, 0]]), torch.tensor([3.0, 1.0])
    parameter.grad = torch.sparse_coo_tensor(places, values, (2,), check_invariants=True)
    if follow:
        parameter.grad = parameter.grad.coalesce()
    assert clip_gradient_norm([parameter.grad], 1.0) == pytest.approx(4.0)
    assert parameter.grad.to_dense().tolist() == pytest.approx([1.0, 0.0], rel=1e-5)


def _warmup_of_another_run(follow: str) -> None:
    saved, loaded = _Scene(), _Scene()
    clipper = ZClipper(saved.optimizer, warmup_steps=5).attach(saved.trainer)
    saved.trainer.run(range(3))
    ZClipper(loaded.optimizer, warmup_steps=5 if follow else 2).load_state_dict(clipper.state_dict())


def _two_clippers(follow: str) -> None:
    scene, other = _Scene(), _Scene()
    tags: Any = ("one", "two") if follow == "tag" else (None, None)
    first = GradientNormClipper(scene.optimizer, 2.0, tag=tags[0]).attach(scene.trainer)
    if follow == "detach":
        first.detach()
    trainer = other.trainer if follow == "new trainer" else scene.trainer
    GradientNormClipper(scene.optimizer, 1.0, tag=tags[1]).attach(trainer)
    if follow != "new trainer":
        assert scene.norm_after_run() == pytest.approx(1.0, rel=1e-5)


def _one_metric(follow: str) -> None:
    scene, other = _Scene(), _Scene()
    tags: Any = ("one", "two") if follow else (None, None)
    trainer = Engine(lambda engine, batch: [each._update(engine, batch) for each in (scene, other)])
    for each, tag in zip((scene, other), tags, strict=True):
        GradientNormClipper(each.optimizer, 1.0, tag=tag).attach(trainer)
    other.gradient = 2 * scene.gradient
    trainer.run([0])
    assert [trainer.state.metrics[f"{tag}/grad_norm"] for tag in tags] == pytest.approx([5.0, 10.0])


def _names_wanted(follow: str) -> None:
    scene = _Scene(gradient=torch.tensor([[torch.nan, 1.0]]))
    GradientNormClipper(scene.optimizer, 1.0, model=scene.model if follow else None).attach(scene.trainer)
    if follow:
        with pytest.raises(RuntimeError, match="weight"):
            scene.norm_after_run()
    else:
        scene.norm_after_run()


def _other_optimizer_is_stepped(follow: str) -> None:
    scene = _Scene()
    idle = SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    GradientNormClipper(scene.optimizer if follow else idle, 1.0).attach(scene.trainer)
    assert scene.norm_after_run() == pytest.approx(1.0, rel=1e-5)


def _parameters_replaced(follow: str) -> None:
    scene = _Scene()
    scene.model.weight = scene.parameter = nn.Parameter(torch.zeros(1, 2))
    if follow:
        scene.optimizer = SGD(scene.model.parameters(), lr=0.1)
    GradientNormClipper(scene.optimizer, 1.0).attach(scene.trainer)
    assert scene.norm_after_run() == pytest.approx(1.0, rel=1e-5)


class _Wrapper(Optimizer):
    """Wraps an optimizer without calling Optimizer.__init__, as several libraries do."""

    def __init__(self, base_optimizer: Optimizer) -> None:
        self.base_optimizer = base_optimizer
        self.param_groups, self.defaults, self.state = (
            base_optimizer.param_groups,
            base_optimizer.defaults,
            base_optimizer.state,
        )

    def step(self, closure: Any = None) -> Any:
        return self.base_optimizer.step(closure)


def _wrapped(follow: str) -> None:
    scene = _Scene()
    wrapper = _Wrapper(scene.optimizer)
    GradientNormClipper(wrapper.base_optimizer if follow else wrapper, 1.0).attach(scene.trainer)
    scene.optimizer = wrapper
    assert scene.norm_after_run() == pytest.approx(1.0, rel=1e-5)


def _within_backward(follow: str) -> None:
    parameters = [nn.Parameter(torch.ones(2)) for _ in range(2)]
    together = SGD(parameters, lr=0.1)
    optimizers = [SGD([parameter], lr=0.1) for parameter in parameters] if follow == "each" else [together] * 2
    trainer = Engine(lambda engine, batch: torch.stack(list(parameters)).sum().backward())
    trainer.logger.disabled = True
    clippers = [
        GradientNormClipper(optimizer, 1.0, tag=f"{index}", on_nonfinite="propagate").attach(trainer)
        for index, optimizer in enumerate(dict.fromkeys(optimizers))
    ]
    if follow == "detach":
        clippers[0].detach()
    for parameter, optimizer in zip(parameters, optimizers, strict=True):
        parameter.register_post_accumulate_grad_hook(lambda _, optimizer=optimizer: optimizer.step())
    trainer.run([0])
    assert all(not torch.equal(parameter, torch.ones(2)) for parameter in parameters)


class _Twice(SGD):
    def step(self, closure: Any = None) -> Any:
        closure()
        return super().step(closure)


def _closure_twice(follow: str) -> None:
    scene = _Scene()
    optimizer = _Twice(scene.model.parameters(), lr=0.1)

    def closure() -> float:
        scene.parameter.grad = scene.gradient.clone()
        return 1.0

    trainer = Engine(lambda engine, batch: optimizer.step(closure))
    trainer.logger.disabled = True
    clipper = GradientNormClipper(optimizer, 1.0).attach(trainer)
    if follow:
        clipper.detach()
    assert trainer.run([0]).iteration == 1


def _lbfgs(follow: str) -> None:
    scene = _Scene()
    optimizer = LBFGS(scene.model.parameters(), lr=0.1, max_iter=3)
    norms = []

    def closure() -> float:
        scene.parameter.grad = scene.gradient.clone()
        clip_gradient_norm([scene.parameter.grad], 1.0)
        norms.append(float(torch.linalg.vector_norm(scene.parameter.grad)))
        return 1.0

    if not follow:
        GradientNormClipper(optimizer, 1.0).attach(scene.trainer)
    Engine(lambda engine, batch: optimizer.step(closure)).run([0])
    assert norms == pytest.approx([1.0] * len(norms), rel=1e-5)


def _copied(follow: str) -> None:
    scene = _Scene()
    clipper = GradientNormClipper(scene.optimizer, 1.0).attach(scene.trainer)
    if follow == "detach":
        clipper.detach()
    copied = clipper.state_dict() if follow == "state" else copy.deepcopy(clipper)
    assert copied is not clipper


def _loaded_before_attaching(follow: str) -> None:
    saved, loaded = _Scene(), _Scene()
    attach_optimizer_events(saved.trainer, saved.optimizer)
    saved.trainer.run(range(2))
    if follow:
        attach_optimizer_events(loaded.trainer, loaded.optimizer)
    loaded.trainer.load_state_dict(saved.trainer.state_dict())
    attach_optimizer_events(loaded.trainer, loaded.optimizer)
    assert loaded.trainer.state.optimizer_step == 2


REMEDIES: dict[str, tuple[Callable[[str], None], str, str]] = {
    "sparse: exclude": (_sparse, "exclude", "exclude its parameter, or clip the norm"),
    "sparse: norm": (_sparse, "norm", "clip the norm with GradientNormClipper"),
    "complex": (_complex, "norm", "clip their norm with GradientNormClipper"),
    "uncoalesced": (_uncoalesced, "coalesce", "call its coalesce() first"),
    "warmup": (_warmup_of_another_run, "same", "make the clipper with the warmup_steps of the run that saved it"),
    "two clippers: detach": (_two_clippers, "detach", "detach() one of the two"),
    "two clippers: new trainer": (_two_clippers, "new trainer", "create a new trainer"),
    "two clippers: tag": (_two_clippers, "tag", "give each a tag=... if both are intended"),
    "one metric": (_one_metric, "tag", "give each a tag=..."),
    "names": (_names_wanted, "model", "give the clipper model=... to have parameters named"),
    "idle optimizer": (_other_optimizer_is_stepped, "other", "if the trainer steps another optimizer, clip that"),
    "replaced": (_parameters_replaced, "anew", "create it from the model's parameters"),
    "wrapper": (_wrapped, "inner", "base_optimizer"),
    "gradient release: each": (_within_backward, "each", "create an optimizer for each parameter"),
    "gradient release: detach": (_within_backward, "detach", "or detach the handlers that act on its updates"),
    "closure": (_closure_twice, "detach", "detach the handlers that act on its updates"),
    "lbfgs": (_lbfgs, "closure", "clip in its closure with clip_gradient_norm() instead"),
    "copy: detach": (_copied, "detach", "call detach() first"),
    "copy: state": (_copied, "state", "save its state_dict()"),
    "loaded first": (_loaded_before_attaching, "attach", "attach first, then load"),
}


@pytest.mark.parametrize("case", REMEDIES)
def test_the_remedy_works(case: str) -> None:
    """The scenario fails or warns with the remedy, and succeeds without a warning once the remedy is followed."""
    scenario, how, remedy = REMEDIES[case]
    with pytest.raises((TypeError, ValueError, RuntimeError, UserWarning), match=re.escape(remedy)):
        scenario("")
    scenario(how)
