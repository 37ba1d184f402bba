"""The contract of every public handler: attach, detach, state and resume."""

import gc
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events, create_supervised_evaluator, create_supervised_trainer
from ignite.handlers import Checkpoint, DiskSaver, HandlersTimeProfiler, TensorboardLogger
from ignite.handlers.base_logger import BaseLogger
from ignite.metrics import Loss
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

import ignite_tips
from ignite_tips import attach_optimizer_events
from tests.settings import seeded
from tests.support import run_distributed


class Job:
    """A small training job that handlers are attached to."""

    def __init__(self, folder: str) -> None:
        torch.manual_seed(seeded(3))
        self.data, self.validation = ([(torch.randn(8, 6), torch.randn(8, 2)) for _ in range(4)] for _ in range(2))
        self.model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
        groups = ignite_tips.param_groups(self.model, {"0.*": {"lr": 0.1}, "1.*": {"lr": 0.2}, "3.*": {"lr": 0.3}})
        self.optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
        self.trainer = create_supervised_trainer(self.model, self.optimizer, nn.MSELoss())
        self.evaluator = create_supervised_evaluator(self.model, {"loss": Loss(nn.MSELoss())})
        self.trainer.add_event_handler(Events.EPOCH_COMPLETED, _evaluate, self.evaluator, self.validation)
        self.tb_logger = TensorboardLogger(log_dir=folder)
        self.handler: Any = None

    def objects(self) -> dict[str, Any]:
        found = {"trainer": self.trainer, "model": self.model, "optimizer": self.optimizer}
        return found | ({"handler": self.handler} if hasattr(self.handler, "state_dict") else {})

    def run(self, epochs: int) -> None:
        self.trainer.run(self.data, max_epochs=epochs)

    def outcome(self) -> dict[str, Any]:
        """The result of training, as plain values."""
        momenta = [state.get("momentum_buffer") for state in self.optimizer.state.values()]
        return {
            "weights": {name: tensor.clone() for name, tensor in self.model.state_dict().items()},
            "momenta": [None if momentum is None else momentum.clone() for momentum in momenta],
            "learning rates": [group["lr"] for group in self.optimizer.param_groups],
            "handler": self.handler.state_dict() if hasattr(self.handler, "state_dict") else None,
        }

    def traces(self) -> dict[str, Any]:
        """Everything that a handler could have left on the job's parts."""
        engines = (self.trainer, self.evaluator)
        return {
            "handlers": [[len(handlers) for handlers in e._event_handlers.values() if handlers] for e in engines],
            "keys": [list(engine.state_dict()) for engine in engines],
            "step hooks": [
                len(self.optimizer._optimizer_step_pre_hooks),
                len(self.optimizer._optimizer_step_post_hooks),
            ],
            "requires_grad": [parameter.requires_grad for parameter in self.model.parameters()],
            "training": [module.training for module in self.model.modules()],
            "module hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in self.model.modules()],
            "train": [module.train.__qualname__ for module in self.model.modules()],
        }


def _evaluate(evaluator: Engine, data: Any) -> None:
    evaluator.run(data)


@dataclass(frozen=True)
class Row:
    """How one handler is made and attached."""

    build: Callable[[Job], Any]
    attach: Callable[[Any, Job], Any] = lambda handler, job: handler.attach(job.trainer)


def _plateau_scheduler(job: Job) -> ReduceLROnPlateau:
    return ReduceLROnPlateau(job.optimizer, patience=0, threshold=0.9)


TABLE: dict[str, Row] = {
    "AdaptiveGradientClipper": Row(lambda job: ignite_tips.AdaptiveGradientClipper(job.optimizer, clipping=0.02)),
    "AutoClipper": Row(lambda job: ignite_tips.AutoClipper(job.optimizer, percentile=30.0, history_size=9)),
    "GradientNormClipper": Row(lambda job: ignite_tips.GradientNormClipper(job.optimizer, max_norm=0.1)),
    "GradientValueClipper": Row(lambda job: ignite_tips.GradientValueClipper(job.optimizer, clip_value=0.01)),
    "GradualUnfreezer": Row(
        lambda job: ignite_tips.GradualUnfreezer(job.model, ["3.*", "1.*", "0.*"], optimizer=job.optimizer),
        lambda handler, job: handler.attach(job.trainer, every=2),
    ),
    "LearningRateLogger": Row(
        lambda job: ignite_tips.LearningRateLogger(job.optimizer),
        lambda handler, job: handler.attach(job.trainer, job.tb_logger),
    ),
    "ModelSummarizer": Row(lambda job: ignite_tips.ModelSummarizer(job.model, input_size=(8, 6))),
    "ParameterFreezer": Row(
        lambda job: ignite_tips.ParameterFreezer(job.model, ["0.*", "1.*"], optimizer=job.optimizer),
        lambda handler, job: handler.attach(job.trainer, freeze=Events.STARTED, unfreeze=Events.EPOCH_STARTED(once=5)),
    ),
    "PlateauStepper": Row(
        lambda job: ignite_tips.PlateauStepper(_plateau_scheduler(job), metric="loss"),
        lambda handler, job: handler.attach(job.trainer, job.evaluator),
    ),
    "RunAnnotator": Row(
        lambda job: ignite_tips.RunAnnotator(job.model, job.optimizer),
        lambda handler, job: handler.attach(job.trainer, job.tb_logger),
    ),
    "SchedulerStepper": Row(lambda job: ignite_tips.SchedulerStepper(StepLR(job.optimizer, step_size=2))),
    "ZClipper": Row(lambda job: ignite_tips.ZClipper(job.optimizer, z_threshold=0.5, warmup_steps=5)),
}
STATEFUL = [name for name in TABLE if hasattr(getattr(ignite_tips, name, None), "state_dict")]


def _job(name: str, folder: Path | str, attach: int = 1) -> Job:
    job = Job(str(folder))
    job.handler = TABLE[name].build(job)
    for _ in range(attach):
        TABLE[name].attach(job.handler, job)
    return job


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_equal(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(_equal(a, b) for a, b in zip(left, right, strict=True))
    return bool(left == right)


def test_every_public_handler_is_in_the_table() -> None:
    """Every public class with attach() has a row, except Ignite's loggers, to which handlers are attached."""
    public = {name: getattr(ignite_tips, name) for name in ignite_tips.__all__}
    loggers = {name for name, thing in public.items() if isinstance(thing, type) and issubclass(thing, BaseLogger)}
    assert {name for name, thing in public.items() if hasattr(thing, "attach")} - loggers == set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_constructing_has_no_side_effect(name: str, tmp_path: Path) -> None:
    """Before attach() nothing is registered and nothing changes."""
    job = Job(str(tmp_path))
    before = job.traces()
    TABLE[name].build(job)
    assert job.traces() == before


@pytest.mark.parametrize("name", TABLE)
def test_attaching_twice_acts_once(name: str, tmp_path: Path) -> None:
    """A second attach() changes neither the training nor what is registered."""
    once, twice = _job(name, tmp_path / "once"), _job(name, tmp_path / "twice", attach=2)
    assert once.traces() == twice.traces()
    once.run(6)
    twice.run(6)
    assert _equal(once.outcome(), twice.outcome())


@pytest.mark.parametrize("when", ["at once", "after a run"])
@pytest.mark.parametrize("name", TABLE)
def test_detaching_leaves_everything_as_before(name: str, when: str, tmp_path: Path) -> None:
    """No handler, hook or key remains, and detaching a detached handler does nothing."""
    bare, job = Job(str(tmp_path / "bare")), _job(name, tmp_path / "job")
    if when == "after a run":
        bare.run(2)
        job.run(2)
    job.handler.detach()
    job.handler.detach()
    assert job.traces() == bare.traces()


def _registered(job: Job) -> list[tuple[Engine, Any, Callable[..., Any]]]:
    engines = (job.trainer, job.evaluator)
    return [(e, event, entry[0]) for e in engines for event, entries in e._event_handlers.items() for entry in entries]


@pytest.mark.parametrize("profiled", [False, True])
@pytest.mark.parametrize("name", TABLE)
def test_detaching_within_a_handler_of_the_same_event(name: str, profiled: bool, tmp_path: Path) -> None:
    """By a handler before it, at each event at which it acts, the run goes on without it, and nothing remains.

    Also where Ignite's profiler has wrapped every handler; it hides errors, but then the run ends early.
    """

    def prepare(folder: str) -> Job:
        job = Job(str(tmp_path / folder))
        attach_optimizer_events(job.trainer, job.optimizer)
        job.trainer.add_event_handler(Events.EPOCH_COMPLETED(once=3), lambda engine: engine.terminate())
        return job

    attached = _job(name, tmp_path / "attached")
    places = {(e is attached.trainer, event) for e, event, f in _registered(attached) if f.__qualname__ == name}
    assert places
    left = []
    for index, (of_trainer, event) in enumerate(places):
        jobs = [prepare(f"{index} {kind}") for kind in ("bare", "job")]
        for job in jobs:
            engine = job.trainer if of_trainer else job.evaluator
            engine.add_event_handler(event, lambda engine, job=job: job.handler and job.handler.detach())
        jobs[1].handler = TABLE[name].build(jobs[1])
        TABLE[name].attach(jobs[1].handler, jobs[1])
        for job in jobs:
            if profiled:
                HandlersTimeProfiler().attach(job.trainer)
            job.run(4)
        left.append([job.traces() | {"epoch": job.trainer.state.epoch} for job in jobs])
    assert [job for _, job in left] == [bare for bare, _ in left]


@pytest.mark.parametrize("name", TABLE)
def test_what_is_registered_has_the_handlers_name(name: str, tmp_path: Path) -> None:
    """Ignite's profilers report a handler by the name of the registered function."""
    bare, job = Job(str(tmp_path / "bare")), _job(name, tmp_path / "job")
    own = [function for _, _, function in _registered(job)]
    names = {function.__qualname__ for function in own} - {f.__qualname__ for _, _, f in _registered(bare)}
    assert names - {"OptimizerEvents"} == {name}


@pytest.mark.parametrize("name", STATEFUL)
def test_state_is_plain(name: str, tmp_path: Path) -> None:
    """The state after training is unchanged after a file read with weights_only and a new handler."""
    job = _job(name, tmp_path / "job")
    job.run(4)
    state = job.handler.state_dict()
    torch.save(state, tmp_path / "state.pt")
    fresh = _job(name, tmp_path / "fresh")
    fresh.handler.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert _equal(fresh.handler.state_dict(), state)


@pytest.mark.parametrize("name", STATEFUL)
def test_a_wrong_state_is_refused_whole(name: str, tmp_path: Path) -> None:
    """A wrong state raises, and the handler's own state does not change."""
    job = _job(name, tmp_path)
    job.run(1)
    before = job.handler.state_dict()
    for wrong in ({"no such key": 1}, [1, 2]):
        with pytest.raises((TypeError, ValueError), match=r"state must (be|have)"):
            job.handler.load_state_dict(wrong)
    assert _equal(job.handler.state_dict(), before)


def _second_half(rank: int, world_size: int, name: str, path: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        job = _job(name, folder)
        Checkpoint.load_objects(job.objects(), torch.load(path, weights_only=True))
        job.run(6)
        return job.outcome()


@pytest.mark.distributed
@pytest.mark.parametrize("name", TABLE)
def test_a_resumed_run_ends_like_an_uninterrupted_one(name: str, tmp_path: Path) -> None:
    """Six epochs equal three, saved, loaded in a new process, and three more: bit for bit."""
    whole = _job(name, tmp_path / "whole")
    whole.run(6)

    half = _job(name, tmp_path / "half")
    saver = Checkpoint(half.objects(), DiskSaver(str(tmp_path / "saved")))
    half.trainer.add_event_handler(Events.EPOCH_COMPLETED(once=3), saver)
    half.trainer.add_event_handler(Events.EPOCH_COMPLETED(once=3), lambda engine: engine.terminate())
    half.run(6)
    (resumed,) = run_distributed(_second_half, 1, name, str(tmp_path / "saved" / str(saver.last_checkpoint)))
    assert _equal(resumed, whole.outcome())


@pytest.mark.parametrize("name", TABLE)
def test_no_engine_is_kept_alive(name: str, tmp_path: Path) -> None:
    """A trainer is freed with its last reference, not by the garbage collector: its data may fill a GPU."""
    job = _job(name, tmp_path)
    job.run(1)
    handler, trainer = job.handler, weakref.ref(job.trainer)
    optimizer, model = job.optimizer, job.model
    job.tb_logger.close()
    gc.disable()
    try:
        del job
        assert trainer() is None
    finally:
        gc.enable()
    del handler, optimizer, model


@pytest.mark.parametrize("name", TABLE)
def test_attach_returns_the_handler(name: str, tmp_path: Path) -> None:
    """A handler can be created, attached and kept for the checkpoint in one line."""
    job = Job(str(tmp_path))
    handler = TABLE[name].build(job)
    assert TABLE[name].attach(handler, job) is handler


@pytest.mark.parametrize("name", TABLE)
def test_attach_requires_an_engine(name: str, tmp_path: Path) -> None:
    """The error names a trainer that is not an engine, and nothing is registered."""
    job = Job(str(tmp_path))
    handler = TABLE[name].build(job)
    before = job.traces()
    right, job.trainer = job.trainer, "trainer"  # type: ignore[assignment]
    with pytest.raises(TypeError, match=r"trainer must be an ignite Engine, got 'trainer' \(str\)"):
        TABLE[name].attach(handler, job)
    job.trainer = right
    assert job.traces() == before
