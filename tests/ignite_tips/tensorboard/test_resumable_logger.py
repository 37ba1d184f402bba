"""Runs that end, crash and resume in the same folder, as TensorBoard's own reader sees them."""

import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers import TensorboardLogger, global_step_from_engine
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from ignite_tips import LearningRateLogger, ResumableTensorboardLogger, RunAnnotator
from ignite_tips.core.wiring import annotate
from ignite_tips.tensorboard.event_files import with_position
from ignite_tips.tensorboard.run_reader import read_run
from tests.support import run_distributed, run_script

EPOCH_LENGTH = 4


def _train(folder: Path, state: dict[str, Any] | None = None, *, epochs: int = 5, checkpoint: int = 0) -> Any:
    """Train and log on three x axes; return the trainer's state after the iteration ``checkpoint``."""
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD([{"params": model.parameters(), "name": "all"}], lr=0.1)
    saved: list[Any] = []

    def update(engine: Engine, batch: Any) -> float:
        model(torch.ones(4, 2)).sum().backward()
        if engine.state.iteration % 2 == 0:
            optimizer.step()
        optimizer.param_groups[0]["lr"] = 1 / (1 + engine.state.iteration)
        return float(engine.state.iteration)

    trainer = Engine(update)
    evaluator = Engine(lambda engine, batch: trainer.state.iteration)
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED(event_filter=lambda engine, count: count == checkpoint),
        lambda engine: saved.append(engine.state_dict()),
    )
    # The checkpoint is written before the log handlers of the same event run.
    with ResumableTensorboardLogger(folder, trainer) as tb_logger:
        LearningRateLogger(optimizer).attach(trainer, tb_logger)
        RunAnnotator(model, optimizer).attach(trainer, tb_logger)
        tb_logger.attach(trainer, LearningRateLogger(optimizer, tag="epoch"), Events.EPOCH_STARTED)
        tb_logger.attach_output_handler(
            trainer, Events.ITERATION_COMPLETED, tag="train", output_transform=lambda loss: {"loss": loss}
        )
        tb_logger.attach_output_handler(
            evaluator,
            Events.EPOCH_COMPLETED,
            tag="validation",
            output_transform=lambda iteration: {"iteration": iteration},
            global_step_transform=global_step_from_engine(trainer),
        )

        @trainer.on(Events.EPOCH_COMPLETED)
        def evaluate(engine: Engine) -> None:
            evaluator.run([0])
            if state is None:
                annotate(engine, "plateau", f"in the first attempt, epoch {engine.state.epoch}")

        if state is not None:
            trainer.load_state_dict(state)
            optimizer.param_groups[0]["lr"] = 1 / (1 + trainer.state.iteration)
        trainer.run(range(EPOCH_LENGTH), max_epochs=epochs)
    return saved[0] if saved else None


def _series(folder: Path) -> dict[str, list[tuple[int, float]]]:
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(point.step, point.value) for point in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def _without_fraction(series: dict[str, Any]) -> dict[str, Any]:
    # Its points are at the ends of what one process wrote.
    return {tag: points for tag, points in series.items() if tag != "trainable_fraction"}


@pytest.mark.parametrize("checkpoint", [1, 4, 6, 8, 11])
def test_a_resumed_run_reads_like_an_uninterrupted_one(tmp_path: Path, checkpoint: int) -> None:
    """On all x axes, resumed at the end of an epoch or within one, after a run that went well past it."""
    state = _train(tmp_path / "resumed", checkpoint=checkpoint)
    _train(tmp_path / "resumed", state)
    _train(tmp_path / "whole")
    assert _without_fraction(_series(tmp_path / "resumed")) == _without_fraction(_series(tmp_path / "whole"))
    annotations = (
        EventAccumulator(str(tmp_path / "resumed")).Reload().Tensors("annotations/text_summary")
        if checkpoint > 4
        else []
    )
    assert [annotation.step * 2 for annotation in annotations] == [
        step for step in (4, 8, 12, 16, 20) if step <= checkpoint
    ][: len(annotations)]


def test_its_repr_is_the_call_that_made_it(tmp_path: Path) -> None:
    """Open or closed."""
    shown = f"ResumableTensorboardLogger({str(tmp_path)!r}, trainer=Engine)"
    with ResumableTensorboardLogger(tmp_path, Engine(lambda engine, batch: None)) as tb_logger:
        assert repr(tb_logger) == shown
    assert repr(tb_logger) == shown


def test_it_may_be_resumed_again_and_again(tmp_path: Path) -> None:
    """Also from an earlier checkpoint than last time."""
    early = _train(tmp_path / "resumed", checkpoint=5)
    late = _train(tmp_path / "resumed", early, checkpoint=14)
    _train(tmp_path / "resumed", late, epochs=6)
    _train(tmp_path / "resumed", early)
    _train(tmp_path / "whole")
    assert _without_fraction(_series(tmp_path / "resumed")) == _without_fraction(_series(tmp_path / "whole"))


def test_the_original_file_is_kept(tmp_path: Path) -> None:
    """It has a name that TensorBoard does not read."""
    state = _train(tmp_path, checkpoint=4)
    (before,) = tmp_path.iterdir()
    content = before.read_bytes()
    _train(tmp_path, state)
    (superseded,) = tmp_path.glob("events.out.superseded-after-4*")
    assert superseded.read_bytes() == content
    assert len(list(tmp_path.glob("*tfevents*"))) == 2


def test_a_damaged_file_is_told_and_the_run_resumes(tmp_path: Path) -> None:
    """What was readable before the damage stays, once each; the curve goes on from the checkpoint."""
    state = _train(tmp_path, checkpoint=8)
    (path,) = tmp_path.iterdir()
    damaged = bytearray(path.read_bytes())
    place = damaged.index(with_position(b"", 2, 7))
    damaged[place : place + 5] = b"\xff" * 5
    path.write_bytes(damaged)
    with pytest.warns(UserWarning, match=rf"{path.name} is damaged: \d+ bytes could not be read"):
        _train(tmp_path, state)
    assert [step for step, _ in _series(tmp_path)["train/loss"]] == [*range(1, 7), *range(8, 21)]


def test_a_new_run_needs_its_own_folder(tmp_path: Path) -> None:
    """In one with the run of another process it is refused when it starts, and the folder does not change."""
    _train(tmp_path)
    (path,) = tmp_path.iterdir()
    path.rename(path.with_name(f"{path.name}.copied"))  # not a file that this process began
    before = sorted(tmp_path.iterdir())
    expected = f"log_dir must be a new folder for a new run, got {str(tmp_path)!r}, which contains events.out"
    with pytest.raises(RuntimeError, match=re.escape(expected)):
        _train(tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_a_second_run_in_the_same_process_appends(tmp_path: Path) -> None:
    """A second call of run() adds to the files and removes nothing."""
    trainer = Engine(lambda engine, batch: float(batch))
    with ResumableTensorboardLogger(tmp_path, trainer) as tb_logger:
        tb_logger.attach_output_handler(
            trainer, Events.ITERATION_COMPLETED, "train", output_transform=lambda x: {"x": x}
        )
        trainer.run(range(3), max_epochs=1)
        trainer.run(range(3), max_epochs=2)
    assert [step for step, _ in _series(tmp_path)["train/x"]] == [1, 2, 3, 4, 5, 6]


def _logged(folder: Path, trainer: Engine) -> ResumableTensorboardLogger:
    tb_logger = ResumableTensorboardLogger(folder, trainer)
    tb_logger.attach_output_handler(trainer, Events.ITERATION_COMPLETED, "train", output_transform=lambda x: {"x": x})
    return tb_logger


def _identity(engine: Engine, batch: int) -> float:
    return float(batch)


@pytest.mark.parametrize(("is_closed", "is_new"), [(True, True), (False, False)])
def test_a_run_of_this_process_that_has_ended_yields_its_folder(tmp_path: Path, is_closed: bool, is_new: bool) -> None:
    """As when a notebook's cells are run again, with a new trainer or the same: it is set aside, with a warning."""
    first = Engine(_identity)
    tb_logger = _logged(tmp_path, first)
    first.run(range(3))
    if is_closed:
        tb_logger.close()
    (earlier,) = tmp_path.iterdir()
    content = earlier.read_bytes()
    second = Engine(_identity) if is_new else first
    aside = earlier.name.replace("tfevents", "superseded")
    with (
        _logged(tmp_path, second),
        pytest.warns(UserWarning, match=f"has an earlier run of this process.* kept as {aside}; choose another folder"),
    ):
        second.run(range(5, 7))
    tb_logger.close()
    assert _series(tmp_path)["train/x"] == [(1, 5.0), (2, 6.0)]
    assert (tmp_path / aside).read_bytes().startswith(content)


def test_a_run_of_this_process_that_goes_on_keeps_its_folder(tmp_path: Path) -> None:
    """A trainer that is run within it is refused there."""
    outer, inner = Engine(_identity), Engine(_identity)
    with _logged(tmp_path, outer), _logged(tmp_path, inner):
        outer.add_event_handler(Events.EPOCH_COMPLETED, lambda: inner.run(range(2)))
        with pytest.raises(RuntimeError, match="log_dir must be a new folder for a new run"):
            outer.run(range(2))


def test_a_closed_logger_goes_on_in_its_file(tmp_path: Path) -> None:
    """In the trainer's next run, and for an evaluator that is run after it; a resume finds the points' positions."""
    trainer, evaluator = Engine(_identity), Engine(_identity)
    with _logged(tmp_path, trainer) as tb_logger:
        tb_logger.attach_output_handler(evaluator, Events.COMPLETED, "test", output_transform=lambda x: {"x": x})
        trainer.run(range(2), max_epochs=1)
    state = dict(trainer.state_dict())
    evaluator.run(range(2))
    trainer.run(range(2), max_epochs=3)
    tb_logger.close()
    tb_logger.close()
    assert len(list(tmp_path.iterdir())) == 1
    assert [step for step, _ in _series(tmp_path)["train/x"]] == [1, 2, 3, 4, 5, 6]
    resumed = Engine(_identity)
    resumed.load_state_dict(state)
    with _logged(tmp_path, resumed):
        resumed.run(range(2), max_epochs=2)
    assert [step for step, _ in _series(tmp_path)["train/x"]] == [1, 2, 3, 4]
    assert _series(tmp_path)["test/x"] == [(1, 1.0)]


def test_a_closed_logger_goes_on_after_its_folder_was_deleted(tmp_path: Path) -> None:
    """It creates the folder again, as torch's writer does."""
    trainer = Engine(_identity)
    with _logged(tmp_path / "run", trainer) as tb_logger:
        trainer.run(range(2), max_epochs=1)
    shutil.rmtree(tmp_path / "run")
    trainer.run(range(2), max_epochs=2)
    tb_logger.close()
    assert [step for step, _ in _series(tmp_path / "run")["train/x"]] == [3, 4]


def test_a_closed_logger_goes_on_in_the_file_that_was_set_aside(tmp_path: Path) -> None:
    """A logger of another trainer has the folder now: its curves do not mix with those of the first."""
    first, second = Engine(_identity), Engine(_identity)
    with _logged(tmp_path, first) as tb_logger:
        first.run(range(2), max_epochs=1)
    with _logged(tmp_path, second), pytest.warns(UserWarning, match="has an earlier run of this process"):
        second.run(range(3), max_epochs=1)
    first.run(range(2), max_epochs=2)
    tb_logger.close()
    assert [step for step, _ in _series(tmp_path)["train/x"]] == [1, 2, 3]
    (aside,) = tmp_path.glob("*superseded*")
    aside.rename(tmp_path / "events.out.tfevents.aside")
    next(tmp_path.glob("*tfevents.[0-9]*")).unlink()
    assert [step for step, _ in _series(tmp_path)["train/x"]] == [1, 2, 3, 4]


@pytest.mark.parametrize("chosen", ["own", "taken"])
def test_a_refused_run_stays_refused_until_the_folder_is_another_or_free(tmp_path: Path, chosen: str) -> None:
    """A second try writes nothing into the other run's folder either."""
    _train(tmp_path / "taken")
    (path,) = (tmp_path / "taken").iterdir()
    path.rename(path.with_name(f"{path.name}.copied"))  # not a file that this process began
    trainer = Engine(_identity)
    tb_logger = _logged(tmp_path / "taken", trainer)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="log_dir must be a new folder for a new run"):
            trainer.run(range(2))
        trainer.run(range(2))  # after a run that raised, Ignite's next one does nothing
    assert len(list((tmp_path / "taken").iterdir())) == 1
    if chosen == "own":
        tb_logger = _logged(tmp_path / "own", trainer)
    else:
        next((tmp_path / "taken").iterdir()).unlink()
    trainer.run(range(2))
    tb_logger.close()
    assert [step for step, _ in _series(tmp_path / chosen)["train/x"]] == [1, 2]
    assert len(list((tmp_path / chosen).iterdir())) == 1


def test_it_keeps_no_trainer_alive_and_outlives_it(tmp_path: Path) -> None:
    """After the trainer is gone, writing still works and raises nothing."""
    with ResumableTensorboardLogger(tmp_path, Engine(lambda engine, batch: None)) as tb_logger:
        tb_logger.writer.add_scalar("late", 1.0, 1)
    assert _series(tmp_path)["late"] == [(1, 1.0)]


@pytest.mark.parametrize("below", ["", "below"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, below: str) -> None:
    """The error has the operating system's reason."""
    path = tmp_path / "file"
    path.write_text("no folder")
    expected = f"log_dir must be a folder that can be written to, got {str(path / below)!r}: "
    with pytest.raises(ValueError, match=re.escape(expected)):
        ResumableTensorboardLogger(path / below, Engine(lambda engine, batch: None))


def test_the_trainer_must_be_an_engine(tmp_path: Path) -> None:
    """The error shows the value."""
    unknown: Any = None
    with pytest.raises(TypeError, match="trainer must be an ignite Engine, got None"):
        ResumableTensorboardLogger(tmp_path, unknown)


def _train_on_rank(rank: int, world_size: int, folder: Path) -> None:
    _train(folder)


@pytest.mark.distributed
def test_only_rank_zero_creates_files(tmp_path: Path) -> None:
    """Every rank attaches the same handlers to the same folder."""
    run_distributed(_train_on_rank, 2, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    assert len(_series(tmp_path)["train/loss"]) == 20


KILLED = """
import os, signal, sys, torch
from pathlib import Path
from ignite.engine import Engine, Events
from ignite_tips import LearningRateLogger, ResumableTensorboardLogger

folder, checkpoint = Path(sys.argv[1]), Path(sys.argv[2])
weight = torch.nn.Parameter(torch.ones(1))
optimizer = torch.optim.SGD([{"params": weight, "name": "all"}], lr=1.0)
scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)

def update(engine, batch):
    weight.grad = torch.ones(1)
    optimizer.step()
    scheduler.step()

trainer = Engine(update)
kill_at = None if checkpoint.exists() else 37

@trainer.on(Events.ITERATION_COMPLETED)
def end(engine):
    if engine.state.iteration == 20:
        parts = {"trainer": trainer, "scheduler": scheduler, "optimizer": optimizer}
        torch.save({name: dict(part.state_dict()) for name, part in parts.items()}, checkpoint)
    if engine.state.iteration == 30 and kill_at:
        tb_logger.writer.flush()
    if engine.state.iteration == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)

tb_logger = ResumableTensorboardLogger(folder, trainer)
LearningRateLogger(optimizer).attach(trainer, tb_logger)
if checkpoint.exists():
    saved = torch.load(checkpoint, weights_only=True)
    for name, part in {"trainer": trainer, "scheduler": scheduler, "optimizer": optimizer}.items():
        part.load_state_dict(saved[name])
trainer.run(range(10), max_epochs=5)
tb_logger.close()
"""


def test_a_killed_run_reads_back_to_the_last_flush_and_resumes_without_duplicates(tmp_path: Path) -> None:
    """After SIGKILL every update up to the flush is in the file; after the resume every update of the run, once."""
    (tmp_path / "script.py").write_text(KILLED)
    arguments = [str(tmp_path / name) for name in ("script.py", "log", "checkpoint")]
    assert run_script(*arguments, folder=tmp_path)[0].code == -signal.SIGKILL
    expected = [(step, pytest.approx(0.9 ** (step - 1), rel=1e-6)) for step in range(1, 51)]
    flushed = _series(tmp_path / "log")["lr/all"]
    assert len(flushed) >= 30
    assert flushed == expected[: len(flushed)]
    # A process can be killed while it writes a record.
    (path,) = (tmp_path / "log").iterdir()
    path.write_bytes(path.read_bytes()[:-3])
    assert run_script(*arguments, folder=tmp_path)[0].code == 0
    assert _series(tmp_path / "log")["lr/all"] == expected


def test_files_of_an_ordinary_logger_do_not_change(tmp_path: Path) -> None:
    """They do not record the trainer's position."""
    with TensorboardLogger(log_dir=tmp_path) as tb_logger:
        tb_logger.writer.add_scalar("loss", 1.0, 9)
    trainer = Engine(lambda engine, batch: None)
    trainer.load_state_dict({"iteration": 4, "epoch_length": 4, "max_epochs": 1})
    with ResumableTensorboardLogger(tmp_path, trainer):
        trainer.run(range(4), max_epochs=2)
    assert _series(tmp_path)["loss"] == [(9, 1.0)]


def _train_in_groups(folder: Path, state: dict[str, Any] | None, *, until: int) -> dict[str, Any]:
    """Run to an iteration, with a run per group and the user's own ``add_scalars``; return the trainer's state at 4."""
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    groups = [{"params": model[0].parameters(), "name": "body"}, {"params": model[1].parameters(), "name": "head"}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    trainer = Engine(lambda engine, batch: optimizer.step())
    states: dict[str, Any] = {}
    with ResumableTensorboardLogger(folder, trainer) as tb_logger:
        LearningRateLogger(optimizer, run_per_group=True).attach(trainer, tb_logger)

        @trainer.on(Events.ITERATION_COMPLETED)
        def write(engine: Engine) -> None:
            tb_logger.writer.add_scalars("losses", {"own": 1.0}, engine.state.iteration)
            if engine.state.iteration == 4:
                states.update(engine.state_dict())
            if engine.state.iteration == until:
                engine.terminate()

        if state is not None:
            trainer.load_state_dict(state)
        trainer.run(range(4), max_epochs=2)
    return states


def test_runs_within_the_run_are_resumed_too(tmp_path: Path) -> None:
    """One file a group and process; after a resume each point is there once, for a user's ``add_scalars`` too."""
    state = _train_in_groups(tmp_path, None, until=6)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["body", "head", "losses_own"]
    assert [step for step, _ in _series(tmp_path / "head")["lr"]] == [1, 2, 3, 4, 5, 6]
    _train_in_groups(tmp_path, state, until=8)
    for folder, tag in (("body", "lr"), ("head", "lr"), ("losses_own", "losses")):
        assert [step for step, _ in _series(tmp_path / folder)[tag]] == [1, 2, 3, 4, 5, 6, 7, 8]
        assert len(list((tmp_path / folder).glob("*tfevents*"))) == 2
    assert read_run(tmp_path).series.keys() == {"lr/body", "lr/head", "losses/losses_own"}
