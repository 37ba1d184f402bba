"""Ignite's TensorboardLogger for runs that crash and are resumed in the same folder."""

import os
import time
import weakref
from math import ceil
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from ignite.handlers import TensorboardLogger
from tensorboard.compat.proto.event_pb2 import Event
from torch.utils.tensorboard import SummaryWriter

from ignite_tips._checks import check_instance
from ignite_tips.tensorboard.event_files import RecordFile, event_files, position_event, truncate_after

__all__ = ["ResumableTensorboardLogger"]


class ResumableTensorboardLogger(TensorboardLogger):
    """A TensorboardLogger whose curves go on where a resumed trainer does, without doubled points.

    When ``trainer`` starts with a loaded state, what an earlier process wrote into the folder after the resumed
    iteration is taken out of its files, on every x axis: ``SummaryWriter(purge_step=...)`` knows one axis alone. The
    files as they were stay beside them, as ``events.out.superseded-...``. When it starts anew, the folder must hold
    no other run.

    Every record is on its way to the disk at once: a run that is killed leaves all that it wrote, and a record costs
    a fraction of what it does in TensorBoard's own writer. On ranks other than 0 it writes nothing, so that every
    rank attaches the same handlers.

    Args:
        log_dir: one run's folder, a path that is not empty; made if it is not there.
        trainer: the engine whose run is logged; its state may be loaded before or after.

    Raises:
        TypeError: if ``log_dir`` is no path, or ``trainer`` no Engine.
        ValueError: if the path is empty, or the folder cannot be written to.
        RuntimeError: when a new run starts in a folder that holds another's event files.

    State saved: none; the trainer's own state says where the run is resumed.

    Example:
        >>> import tempfile
        >>> trainer = Engine(lambda engine, batch: 0.5)
        >>> with tempfile.TemporaryDirectory() as folder, ResumableTensorboardLogger(folder, trainer) as tb_logger:
        ...     tb_logger.attach_output_handler(
        ...         trainer, Events.ITERATION_COMPLETED, tag="train", output_transform=lambda loss: {"loss": loss})
        ...     _ = trainer.run(range(3))
        <...>
    """

    def __init__(self, log_dir: str | os.PathLike[str], trainer: Engine) -> None:
        check_instance("log_dir", log_dir, (str, os.PathLike), "a path")
        check_instance("trainer", trainer, Engine, "an ignite Engine")
        if not str(log_dir):
            raise ValueError("log_dir must be a folder that can be written to, got ''")
        self.writer: Any = _SilentWriter(str(log_dir))
        if idist.get_rank() > 0:
            return
        try:
            Path(log_dir).mkdir(parents=True, exist_ok=True)
            self._earlier = _wait_for_later_name(log_dir)
            self.writer = SummaryWriter(str(log_dir))
            self._events = _EventWriter(self.writer.file_writer.event_writer, self._earlier, trainer)
        except (OSError, ValueError) as error:  # the latter for a null byte
            raise ValueError(
                f"log_dir must be a folder that can be written to, got {str(log_dir)!r}: {error}"
            ) from error
        self.writer.file_writer.event_writer = self._events
        self._has_started = False
        trainer.add_event_handler(Events.STARTED, _start, weakref.ref(self))

    def _start(self, trainer: Engine) -> None:
        if self._has_started:
            return
        self._has_started = True
        iteration, epoch_length = trainer.state.iteration, trainer.state.epoch_length or 1
        if iteration > 0:
            epoch = ceil(iteration / epoch_length)
            for path in self._earlier:
                truncate_after(path, epoch=epoch, iteration=iteration)
            if iteration % epoch_length:
                self._events.restart = (epoch, iteration)
        elif self._earlier:
            self._leave_folder()
            raise RuntimeError(
                f"log_dir must be a new folder for a new run, got {self.writer.log_dir!r}, which holds "
                f"{self._earlier[0].name}; choose another, or load the trainer's state to resume the run"
            )

    def _leave_folder(self) -> None:
        self.writer.close()
        for path in set(event_files(self.writer.log_dir)) - set(self._earlier):
            path.unlink()


def _wait_for_later_name(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the folder's event files once a new one's name, which has its second, comes after theirs."""
    # TensorBoard reads the files in the order of their names: two processes of one second would be mixed up.
    files = event_files(folder)
    while any(f".{int(time.time()):010}." in path.name for path in files):
        time.sleep(0.05)
    return files


def _start(trainer: Engine, logger_ref: "weakref.ref[ResumableTensorboardLogger]") -> None:
    logger = logger_ref()
    if logger is not None:
        logger._start(trainer)


class _EventWriter:
    """In the place of TensorBoard's EventFileWriter, writes to the file that it began.

    Before what a trainer's handlers write, it notes where the trainer stands.

    Attributes:
        restart: where a trainer stands that starts once more the epoch within which it is resumed. What its
            handlers write of that start is there already, from the first time, and is left out.
    """

    def __init__(self, begun: Any, earlier: list[Path], trainer: Engine) -> None:
        self.restart: tuple[int, int] | None = None
        self._folder = begun.get_logdir()
        begun.close()
        (path,) = set(event_files(self._folder)) - set(earlier)
        self._file = RecordFile(path)
        self._trainer = weakref.ref(trainer)
        self._position = (0, 0)

    def get_logdir(self) -> str:
        return str(self._folder)

    def add_event(self, event: Event) -> None:
        trainer = self._trainer()
        if trainer is not None:
            position = (trainer.state.epoch, trainer.state.iteration)
            if position == self.restart and any(value.HasField("simple_value") for value in event.summary.value):
                return
            if position != self._position:
                self._position = position
                stamp = position_event(*position, event.wall_time)
                self._file.write(stamp.SerializeToString(), event.SerializeToString())
                return
        self._file.write(event.SerializeToString())

    def flush(self) -> None:
        """Do nothing: all is written."""

    def close(self) -> None:
        self._file.close()


class _SilentWriter:
    """What the other ranks' handlers write to."""

    def __init__(self, log_dir: str) -> None:
        self.log_dir = log_dir

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("add_", "flush", "close")):
            return _do_nothing
        raise AttributeError(name)


def _do_nothing(*_: Any, **__: Any) -> None:
    """Accept anything."""
