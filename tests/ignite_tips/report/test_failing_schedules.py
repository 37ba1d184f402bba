"""Schedules that raise in some step: the report says so before the run, and never raises itself."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events, create_supervised_trainer
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ChainedScheduler, ConstantLR, LambdaLR, LRScheduler, OneCycleLR, SequentialLR

import ignite_tips as tips
from ignite_tips import OptimizerEvents
from tests.ignite_tips.report.scene import EPOCHS, LENGTH, Scene

Build = Callable[[Optimizer], LRScheduler]
UPDATES = EPOCHS * LENGTH
PER_UPDATE, PER_EPOCH = OptimizerEvents.STEP_COMPLETED, Events.EPOCH_COMPLETED


def _one_cycle(steps: int) -> Build:
    return lambda optimizer: OneCycleLR(optimizer, 0.1, total_steps=steps)


def _warm(optimizer: Optimizer) -> LRScheduler:
    return tips.with_warmup(_one_cycle(4)(optimizer), 2)


def _sequence(optimizer: Optimizer) -> LRScheduler:
    return SequentialLR(optimizer, [ConstantLR(optimizer, 1, 2), _one_cycle(4)(optimizer)], [2])


def _chain(optimizer: Optimizer) -> LRScheduler:
    return ChainedScheduler([_one_cycle(6)(optimizer)], optimizer)


def _listed(steps: int) -> Build:
    """A LambdaLR whose function knows so many steps."""
    factors = [1.0 - step / 100 for step in range(steps + 1)]
    return lambda optimizer: LambdaLR(optimizer, lambda step: factors[step])


def _accumulate(scene: Scene, steps: int) -> None:
    scene.trainer = create_supervised_trainer(
        scene.model, scene.optimizer, scene.loss_fn, gradient_accumulation_steps=steps
    )


def _error_of_run(scene: Scene) -> str:
    scene.trainer.logger.disabled = True
    with pytest.raises((ValueError, IndexError)) as caught:
        scene.run()
    return str(caught.value)


@pytest.mark.parametrize(
    ("build", "event"),
    [
        (_one_cycle(5), PER_EPOCH),
        (_one_cycle(UPDATES - 1), PER_UPDATE),
        (_one_cycle(UPDATES - 1), Events.ITERATION_COMPLETED),
        (_one_cycle(UPDATES // 4 - 1), Events.ITERATION_COMPLETED(every=4)),
        (_one_cycle(2), Events.EPOCH_STARTED(every=2)),
        (_one_cycle(UPDATES // 2 - 1), OptimizerEvents.STEP_COMPLETED(every=2)),
        (_one_cycle(UPDATES), PER_UPDATE | PER_EPOCH),
        (_warm, PER_UPDATE),
        (_sequence, PER_UPDATE),
        (_chain, PER_UPDATE),
    ],
)
def test_the_report_says_what_the_run_will(build: Build, event: Any) -> None:
    """A schedule too short for its steps, at any event that can be counted: the run's own error, before the run."""
    scene = Scene()
    scene.use(scene.model.parameters(), torch.optim.SGD, momentum=0.9)
    scene.schedule(build(scene.optimizer), event)
    (finding,) = scene.report().findings
    assert finding.kind == "schedule length"
    beginning, remedy = finding.text.split("; ")
    told = _error_of_run(scene)
    assert beginning.split(", but")[0] == told.split(", but")[0]
    assert told.endswith(remedy)


@pytest.mark.parametrize("event", [PER_EPOCH, PER_EPOCH(every=2)])
def test_a_run_that_refuses_at_its_start_has_the_same_words(event: Any) -> None:
    """For a new scheduler, and for one of an earlier run."""
    for done in (0, 2):
        scene = Scene()
        scheduler = _one_cycle(2)(scene.optimizer)
        for _ in range(done):
            scene.optimizer.step()
            scheduler.step()
        scene.schedule(scheduler, event)
        (finding,) = scene.report().findings
        assert _error_of_run(scene) == finding.text
        assert scene.trainer.state.iteration == 0


def test_a_resumed_run_that_refuses_at_its_start_has_the_same_words() -> None:
    """It is to be longer than its schedule."""
    first, second = Scene(), Scene()
    steppers = [scene.schedule(_one_cycle(3)(scene.optimizer)) for scene in (first, second)]
    first.run(2)
    second.trainer.load_state_dict(first.trainer.state_dict())
    steppers[1].load_state_dict(steppers[0].state_dict())
    (finding,) = second.report().findings
    assert finding.text.endswith("load_state_dict(state, keep_settings=True)")
    assert _error_of_run(second) == finding.text


@pytest.mark.parametrize(("event", "steps"), [(PER_UPDATE, UPDATES), (PER_EPOCH, EPOCHS)])
@pytest.mark.parametrize("short_of", [1, 4])
def test_a_function_that_raises_is_found(event: Any, steps: int, short_of: int) -> None:
    """With its own message, also where only the last step raises; none if it knows all steps."""
    scene, right = Scene(), Scene()
    scene.schedule(_listed(steps - short_of)(scene.optimizer), event)
    (finding,) = scene.report().findings
    assert finding.kind == "schedule raises"
    assert finding.text == (
        f"step {steps - short_of + 1} of LambdaLR raises IndexError: list index out of range, but the run steps it "
        f"{steps} times; build the scheduler for the run's length"
    )
    assert _error_of_run(scene) == "list index out of range"
    right.schedule(_listed(steps)(right.optimizer), event)
    assert right.report().findings == ()


def test_learning_rates_up_to_the_step_that_raises() -> None:
    """Those after it are unknown."""
    scene = Scene()
    scene.schedule(_listed(3)(scene.optimizer))
    assert scene.report().schedules[0].lrs == ((0.01, 0.01 * 0.97, None),)


@pytest.mark.parametrize("build", [_warm, _sequence, _chain, _one_cycle(6), _listed(6)])
def test_an_accumulation_that_fits_is_right(build: Build) -> None:
    """Six updates in 48 iterations."""
    scene = Scene()
    scene.use(scene.model.parameters(), torch.optim.SGD, momentum=0.9)
    _accumulate(scene, 8)
    scene.schedule(build(scene.optimizer), PER_UPDATE)
    assert scene.report().findings == ()
    scene.run()
    assert scene.report().findings == ()


@pytest.mark.parametrize("build", [_warm, _sequence, _chain, _one_cycle(6), _one_cycle(1000), _listed(6)])
def test_nothing_is_claimed_of_an_unknown_number_of_updates(build: Build) -> None:
    """Another update function may accumulate, or make several updates in an iteration."""
    scene = Scene()
    scene.use(scene.model.parameters(), torch.optim.SGD, momentum=0.9)
    scene.trainer = Engine(lambda engine, batch: scene.optimizer.step())
    scene.schedule(build(scene.optimizer), PER_UPDATE)
    report = scene.report()
    assert (report.findings, report.schedules) == ((), ())
    assert report.handlers[0].facts == {"steps": "0"}


@pytest.mark.parametrize("build", [_one_cycle(9), _listed(9)])
def test_the_pace_of_the_updates_may_be_one_too_high(build: Build) -> None:
    """Two updates in 10 iterations, but nine in 48: the tenth is not certain, and no finding."""
    scene = Scene()
    scene.use(scene.model.parameters(), torch.optim.SGD, momentum=0.9)

    def update(engine: Engine, batch: Any) -> None:
        if engine.state.iteration % 5 == 0:
            scene.optimizer.step()

    scene.trainer = Engine(update)
    scene.schedule(build(scene.optimizer), PER_UPDATE)
    seen: list[tips.TrainerReport] = []
    scene.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=10), lambda: seen.append(scene.report()))
    scene.run()
    assert seen[0].handlers[0].facts == {"steps": "2 of about 10"}
    assert seen[0].findings == ()


class _ByWeight(LRScheduler):
    """Reads a weight, which a copy of the scheduler does not have."""

    def get_lr(self) -> list[float | torch.Tensor]:
        return [0.1 * float(group["params"][0][0, 0].detach().abs()) for group in self.optimizer.param_groups]


class _Locked:
    """Cannot be copied."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __call__(self, step: int) -> float:
        return 0.5**step


@pytest.mark.parametrize("build", [_ByWeight, lambda optimizer: LambdaLR(optimizer, _Locked())])
def test_what_only_a_simulation_lacks_is_no_finding(build: Build) -> None:
    """The run makes these steps."""
    scene = Scene()
    scene.schedule(build(scene.optimizer))
    assert scene.report().findings == ()
    scene.run()
    assert scene.report().findings == ()


@pytest.mark.parametrize(("build", "findings"), [(_one_cycle(EPOCHS), 1), (lambda o: ConstantLR(o, 0.5, 3), 0)])
def test_a_group_that_was_added_later(build: Build, findings: int) -> None:
    """Its first learning rate is unknown; if the scheduler cannot step it, the finding has the words of the run."""
    scene = Scene()
    scene.use(scene.model.body.parameters())
    scene.schedule(build(scene.optimizer))
    scene.optimizer.add_param_group({"params": scene.model.head.parameters()})
    report = scene.report()
    assert report.schedules[0].lrs[1][0] is None
    assert len(report.findings) == findings
    if findings:
        assert report.findings[0].text == _error_of_run(scene)


def test_a_lazy_layer_that_is_frozen_saw_no_data() -> None:
    """Its statistics have no shape yet."""
    scene = Scene()
    scene.model = nn.Sequential(nn.Linear(4, 3), nn.LazyBatchNorm1d())
    scene.use(scene.model.parameters(), torch.optim.SGD)
    tips.ParameterFreezer(scene.model, "1.*").attach(scene.trainer)
    assert [finding.kind for finding in scene.report().findings] == ["unseen statistics"]


def test_a_lazy_module_has_no_sizes_yet() -> None:
    """The report shows a question mark, and the numbers once the first batch has given the module its shapes."""
    scene = Scene()
    scene.model = nn.Sequential(nn.Linear(4, 3), nn.LazyBatchNorm1d(), nn.LazyLinear(2))
    groups = [{"params": module.parameters(), "name": f"part{name}"} for name, module in scene.model.named_children()]
    scene.use(groups, torch.optim.SGD)
    known, *lazy = scene.report().optimizers[0].groups
    assert (known.parameters, known.frozen, known.tensors) == (15, 0.0, 2)
    assert [(group.parameters, group.frozen, group.tensors) for group in lazy] == [(None, None, 2), (None, None, 2)]
    assert "part2  0.01           ?       ?        2  float32  cpu" in str(scene.report())
    scene.run(1)
    assert [group.parameters for group in scene.report().optimizers[0].groups] == [15, 6, 8]
