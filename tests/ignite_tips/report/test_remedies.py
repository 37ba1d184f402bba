"""The report's other remedies: test_mistakes.py follows one of each finding, here are those that it leaves."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR

import ignite_tips as tips
from tests.ignite_tips.report.scene import Scene
from tests.remedies import says

Step = Callable[[Scene], Any]


def _told(scene: Scene) -> str:
    return "\n".join(finding.text for finding in scene.report().findings)


def _train(scene: Scene) -> None:
    scene.clip()
    scene.run(2)


def _in_no_group(scene: Scene) -> None:
    scene.use(scene.model.body.parameters())
    scene.schedule()


def _of_another_optimizer(scene: Scene) -> None:
    tips.GradientNormClipper(torch.optim.SGD(scene.model.parameters(), lr=0.1), 0.5).attach(scene.trainer)
    scene.run(1)


def _without_learning_rate(scene: Scene) -> None:
    scene.use(tips.param_groups(scene.model, {"body.*": {"lr": 0.1}, "head.*": {"lr": 0.0}}))
    scene.clip()


def _with_a_layer(scene: Scene) -> None:
    scene.model.extra = nn.Linear(2, 2)
    scene.use(scene.model.parameters())


def _unused(scene: Scene) -> None:
    _with_a_layer(scene)
    _train(scene)


def _used(scene: Scene) -> None:
    _with_a_layer(scene)
    scene.model.head = nn.Sequential(scene.model.head, scene.model.extra)
    _train(scene)


def _frozen(scene: Scene) -> None:
    _with_a_layer(scene)
    scene.model.extra.requires_grad_(False)
    _train(scene)


def _cut_off(scene: Scene, bias: float = -100.0) -> None:
    nn.init.constant_(scene.model.body[1].bias, bias)
    _train(scene)


def _all_cut_off(scene: Scene, bias: float = -100.0) -> None:
    scene.model.head = nn.Sequential(nn.Linear(8, 2), nn.ReLU())
    nn.init.constant_(scene.model.head[0].bias, bias)
    scene.use(scene.model.parameters(), torch.optim.SGD)
    _train(scene)


def _detached(scene: Scene, times: int = 1) -> None:
    class _Detach(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.detach() if times else x

    scene.model.body.append(_Detach())
    scene.use(scene.model.body.parameters())
    scene.model.head.requires_grad_(False)
    scene.loss_fn = lambda output, target: nn.functional.cross_entropy(output.requires_grad_(), target)
    _train(scene)


def _statistics_in_train_mode(scene: Scene) -> None:
    scene.model.body.requires_grad_(False)
    scene.clip()


def _without_effect(scene: Scene) -> tips.SchedulerStepper:
    scene.clip()
    return scene.schedule(StepLR(scene.optimizer, step_size=30))


REMEDIES: list[tuple[Step, str, Step]] = [
    (_in_no_group, "freeze them", lambda scene: (scene.model.head.requires_grad_(False), _in_no_group(scene))),
    (_of_another_optimizer, "or give the handlers the optimizer that the trainer steps", _train),
    (
        _without_learning_rate,
        "or freeze it",
        lambda scene: (scene.model.head.requires_grad_(False), _without_learning_rate(scene)),
    ),
    (_unused, "use it in the forward pass", _used),
    (_unused, "or freeze it", _frozen),
    (_cut_off, "look for activations that are all cut off", lambda scene: _cut_off(scene, bias=0.0)),
    (_all_cut_off, "or activations that are all cut off", lambda scene: _all_cut_off(scene, bias=1.0)),
    (_detached, "look for a detach()", lambda scene: _detached(scene, times=0)),
    (
        _statistics_in_train_mode,
        "freeze it with ParameterFreezer",
        lambda scene: (tips.ParameterFreezer(scene.model, "body.*").attach(scene.trainer), scene.clip()),
    ),
    (_without_effect, "or remove its handler", lambda scene: _without_effect(scene).detach()),
]


@pytest.mark.parametrize(("mistake", "remedy", "right"), REMEDIES)
def test_the_remedy_ends_the_finding(mistake: Step, remedy: str, right: Step) -> None:
    """The mistake has a finding with this remedy; where it is followed there is none."""
    wrong, followed = Scene(), Scene()
    mistake(wrong)
    assert remedy in _told(wrong)
    right(followed)
    assert _told(followed) == ""


@pytest.mark.parametrize(("max_norm", "words"), [(1e-4, "about the median norm, "), (1e4, "their largest norm, ")])
def test_a_threshold_far_from_all_norms(max_norm: float, words: str) -> None:
    """At the norm that the finding gives, some updates are clipped and others not; or no clipper is needed."""
    scene, better, without = Scene(), Scene(), Scene()
    clipper = scene.clip(max_norm)
    scene.run()
    found = re.search(rf"{words}([\d.]+)", text := _told(scene))
    assert found is not None
    assert ("raise it to" in text) if max_norm < 1 else ("lower it to about that norm, or remove the clipper" in text)
    factors: list[float] = []
    better.clip(float(found[1]) * 0.99)
    better.trainer.add_event_handler(
        tips.OptimizerEvents.STEP_COMPLETED, lambda engine: factors.append(engine.state.metrics["grad_clip_coef"])
    )
    better.run()
    assert _told(better) == ""
    assert 0 < sum(factor < 1 for factor in factors) < len(factors)
    clipper.detach()
    assert _told(scene) == ""
    without.run()
    assert _told(without) == ""


def _overflow(scene: Scene, lr: float, on_nonfinite: Any) -> None:
    """Train with updates so large that the outputs of a model without a norm overflow."""
    scene.model.body[1] = nn.Identity()
    scene.loss_fn = lambda output, target: output.square().mean()
    scene.use(scene.model.parameters(), torch.optim.SGD, lr=lr)
    scene.trainer.logger.disabled = True
    scene.clip(float("inf"), on_nonfinite=on_nonfinite, model=scene.model)
    scene.run()


def test_many_skipped_updates() -> None:
    """A lower learning rate skips none; on_nonfinite="raise" says where the first one is."""
    scene, lower = Scene(), Scene()
    _overflow(scene, 1e6, "skip")
    assert 'lower the learning rate, or look for the cause with on_nonfinite="raise"' in _told(scene)
    _overflow(lower, 0.01, "skip")
    assert _told(lower) == ""
    with says("in body.0.weight, "):
        _overflow(Scene(), 1e6, "raise")
