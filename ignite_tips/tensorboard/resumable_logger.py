"""Ignite's TensorboardLogger for runs that crash and resume in the same folder."""

import os
import time
import weakref
from math import ceil
from pathlib import Path
from typing import Any, Self

import ignite.distributed as idist
from ignite.engine import Engine, Events
from ignite.handlers import TensorboardLogger
from tensorboard.compat.proto.event_pb2 import Event
from torch.utils.tensorboard import SummaryWriter

from ignite_tips._checks import check_instance
from ignite_tips._warnings import warn_user
from ignite_tips.core.ignite_internals import has_open_run
from ignite_tips.tensorboard.event_files import (
    SUB_RUN,
    RecordFile,
    event_files,
    sub_run_files,
    truncate_after,
    with_position,
)

__all__ = ["ResumableTensorboardLogger"]


class ResumableTensorboardLogger(TensorboardLogger):
    """A TensorboardLogger whose curves continue where the trainer resumes, without duplicate points.

    When ``trainer`` starts with a loaded state, whatever an earlier process logged after the resumed iteration is
    removed from the files, on every x axis. (``SummaryWriter(purge_step=...)`` handles one axis only.) The original
    files are kept as ``events.out.superseded-...``. A new run in a folder with another process's run is an error. An
    ended run of this process, as in a notebook whose cells are run again, is set aside under such a name, with a
    warning.

    After ``close()`` a later run of the trainer goes on in the same files. Once the trainer has a later logger, a
    closed one writes nothing.

    Every record goes to the operating system at once: a killed run loses nothing that it wrote, and a record costs a
    fraction of what it costs with TensorBoard's own writer. Ranks other than 0 write nothing, so every rank can attach
    the same handlers.

    Args:
        log_dir: the folder of one run, not an empty path; created if missing.
        trainer: the engine whose run is logged. Its state may be loaded before or after.

    Raises:
        TypeError: if ``log_dir`` is not a path, or ``trainer`` not an Engine.
        ValueError: if the path is empty, or the folder is not writable.
        RuntimeError: when a new run starts in a folder with another run's event files, unless this process wrote them
            in a run that has ended.

    State saved: none. The trainer's own state says where the run resumes.

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
            _wait_for_later_name(log_dir)
            self._earlier, self._earlier_sub_runs = event_files(log_dir), sub_run_files(log_dir)
            self.writer = _Writer(str(log_dir))
            self._events = _EventWriter(self.writer.file_writer.event_writer, self._earlier, weakref.ref(trainer))
        except (OSError, ValueError) as error:  # ValueError: a null byte in the path
            raise ValueError(
                f"log_dir must be a folder that can be written to, got {str(log_dir)!r}: {error}"
            ) from error
        self.writer.file_writer.event_writer = self._events
        self.writer.filename_suffix = SUB_RUN  # of what it opens from now on
        self.writer.all_writers = _FileWriters(self.writer.all_writers, self._events, self._earlier_sub_runs, trainer)
        self._has_started = self._was_closed = False
        self._trainer = weakref.ref(trainer)
        _silence_closed(trainer)
        _begun[self._events.path.resolve()] = weakref.ref(self)
        trainer.add_event_handler(Events.STARTED, _start, weakref.ref(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.writer.log_dir)!r}, trainer=Engine)"

    def __enter__(self) -> Self:
        """Return the logger; it is closed at the end of the ``with`` block."""
        return self

    def close(self) -> None:
        """Close the files. Writing again opens them again, unless the trainer has a later logger by then."""
        super().close()
        self._was_closed = True

    def _start(self, trainer: Engine) -> None:
        iteration, epoch_length = trainer.state.iteration, trainer.state.epoch_length or 1
        if iteration > 0:
            epoch = ceil(iteration / epoch_length)
            for path in [*self._earlier, *self._earlier_sub_runs]:
                if damaged := truncate_after(path, epoch=epoch, iteration=iteration):
                    warn_user(
                        f"{path} is damaged: {damaged} bytes could not be read, and are left out with what followed "
                        "them at the same iteration; the original file is kept beside it"
                    )
            if iteration % epoch_length:
                self._events.restart = (epoch, iteration)
            return
        other = next((path for path in self._earlier if path.exists() and not _is_over(path, trainer)), None)
        if other is not None:
            self._leave_folder()
            raise RuntimeError(
                f"log_dir must be a new folder for a new run, got {self.writer.log_dir!r}, which contains "
                f"{other.name}; choose another, or load the trainer's state to resume the run"
            )
        self._set_aside_earlier()

    def _set_aside_earlier(self) -> None:
        # Another logger of the trainer may have done so.
        for path in filter(Path.exists, [*self._earlier, *self._earlier_sub_runs]):
            aside = path.rename(_aside(path))
            if path in self._earlier:
                warn_user(
                    f"log_dir {self.writer.log_dir!r} has an earlier run of this process, which TensorBoard will not "
                    f"show beside the new one; it is kept as {aside.name}; choose another folder to see both"
                )

    def _leave_folder(self) -> None:
        self.close()
        for path in set(event_files(self.writer.log_dir)) - set(self._earlier):
            path.unlink()


# The event files that this process began, each with its logger: a run of another process may be under way.
_begun: "dict[Path, weakref.ref[ResumableTensorboardLogger]]" = {}


def _is_over(path: Path, trainer: Engine) -> bool:
    """Whether an event file is of a run of this process that has ended, seen from the start of a run of ``trainer``."""
    reference = _begun.get(path.resolve())
    if reference is None:
        return False
    logger = reference()
    owner = None if logger is None else logger._trainer()
    return owner is None or owner is trainer or not has_open_run(owner)


def _silence_closed(trainer: Engine) -> None:
    """Drop what is written to closed loggers of ``trainer`` from now on: a new one takes their place."""
    # As when a notebook's cell that opens a logger, attaches handlers and runs is run again.
    for reference in _begun.values():
        logger = reference()
        if logger is not None and logger._was_closed and logger._trainer() is trainer:
            logger.writer.close()
            logger.writer = _SilentWriter(str(logger.writer.log_dir))
            logger._has_started = True


def _aside(path: Path) -> Path:
    """Return the name under which TensorBoard does not read an event file."""
    return path.with_name(path.name.replace("tfevents", "superseded"))


def _wait_for_later_name(folder: str | os.PathLike[str]) -> None:
    """Return once a new file's name would sort after those of the folder's event files."""
    # TensorBoard reads files in name order, and a name has the time in seconds: two files of one second would mix.
    files = [*event_files(folder), *sub_run_files(folder)]
    while any(f".{int(time.time()):010}." in path.name for path in files):
        time.sleep(0.05)


def _start(trainer: Engine, logger_ref: "weakref.ref[ResumableTensorboardLogger]") -> None:
    logger = logger_ref()
    if logger is not None and not logger._has_started:
        logger._start(trainer)
        logger._has_started = True


_start.__name__ = _start.__qualname__ = ResumableTensorboardLogger.__name__  # for Ignite's profilers


class _Writer(SummaryWriter):
    """A SummaryWriter that keeps its file writers when it is closed: they open their files again."""

    all_writers: Any

    def close(self) -> None:
        for file_writer in self.all_writers.values():
            file_writer.close()


class _EventWriter:
    """Replaces TensorBoard's EventFileWriter and continues its file.

    It records the trainer's position in each event.

    Attributes:
        path: the file.
        restart: the position of a trainer that resumes within an epoch and so starts that epoch again. Scalars written
            at this position are in the file already, from the first start, and are left out.
    """

    def __init__(
        self,
        begun: Any,
        earlier: list[Path],
        trainer: "weakref.ref[Engine]",
        main: "_EventWriter | None" = None,
    ) -> None:
        self.restart: tuple[int, int] | None = None
        self._main = main
        self._folder = begun.get_logdir()
        begun.close()
        (self.path,) = set(event_files(self._folder)) - set(earlier)
        self._file: RecordFile | None = self._open()  # None while closed
        self._trainer = trainer

    def get_logdir(self) -> str:
        return str(self._folder)

    def add_event(self, event: Event) -> None:
        data = event.SerializeToString()
        trainer = self._trainer()
        if trainer is not None:
            position = (trainer.state.epoch, trainer.state.iteration)
            if position == (self._main or self).restart and any(
                value.HasField("simple_value") for value in event.summary.value
            ):
                return
            data = with_position(data, *position)
        if self._file is None:
            self._file = self._open()
        self._file.write(data)

    def flush(self) -> None:
        """Do nothing: everything is already written."""

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> RecordFile:
        aside = _aside(self.path)  # there once a logger of another trainer has taken the folder
        self.path.parent.mkdir(parents=True, exist_ok=True)  # it may be deleted between two runs
        return RecordFile(aside if aside.exists() else self.path)


class _FileWriters(dict[str, Any]):
    """The file writers of a SummaryWriter by folder, each made to continue its file like the first."""

    def __init__(self, begun: dict[str, Any], main: _EventWriter, earlier: list[Path], trainer: Engine) -> None:
        super().__init__(begun)
        self._main, self._earlier, self._trainer = main, earlier, weakref.ref(trainer)

    def __setitem__(self, folder: str, file_writer: Any) -> None:
        others = [path for path in event_files(folder) if not path.name.endswith(SUB_RUN)]
        earlier = [*self._earlier, *others]
        file_writer.event_writer = _EventWriter(file_writer.event_writer, earlier, self._trainer, self._main)
        super().__setitem__(folder, file_writer)


class _SilentWriter:
    """The writer on ranks other than 0, and of a closed logger that has a successor, which drops everything."""

    def __init__(self, log_dir: str) -> None:
        self.log_dir = log_dir

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("add_", "flush", "close")):
            return _do_nothing
        raise AttributeError(name)


def _do_nothing(*_: Any, **__: Any) -> None:
    """Accept anything."""
