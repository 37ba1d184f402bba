"""Event files with random damage, and a run that resumes over each of them.

The run has to go on, and to say so if bytes were lost. TensorBoard then has to read what it could read of the steps
before the checkpoint, none that the first run did not write, and every step after it, once.
"""

import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from ignite_tips import ResumableTensorboardLogger

__all__ = ["DAMAGES", "Run", "resume_over_damage"]

_NAME = "events.out.tfevents.0000000001.host.1.0"
_CHECKPOINT, _LAST, _EPOCH_LENGTH = 8, 16, 4


class Run:
    """A run's event file and its trainer's state after eight of sixteen iterations.

    Attributes:
        file: the event file's bytes.
        state: the trainer's state at the checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        self.state: Any = None
        _train(folder, self)
        (path,) = folder.iterdir()
        self.file = path.read_bytes()


def _train(folder: Path, run: Run, *, resumes: bool = False) -> None:
    trainer = Engine(lambda engine, batch: float(engine.state.iteration))

    @trainer.on(Events.ITERATION_COMPLETED(once=_CHECKPOINT))
    def save(engine: Engine) -> None:
        run.state = run.state or engine.state_dict()

    with ResumableTensorboardLogger(folder, trainer) as tb_logger:
        tb_logger.attach_output_handler(
            trainer, Events.ITERATION_COMPLETED, "train", output_transform=lambda loss: {"loss": loss}
        )
        if resumes:
            trainer.load_state_dict(run.state)
        trainer.run(range(_EPOCH_LENGTH), max_epochs=_LAST // _EPOCH_LENGTH)


def _span(data: bytes, source: random.Random, most: int = 200) -> tuple[int, int]:
    begin = source.randrange(len(data))
    return begin, min(len(data), begin + source.randint(1, most))


def _flip(data: bytes, source: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(source.randint(1, 8)):
        damaged[source.randrange(len(damaged))] ^= source.randint(1, 255)
    return bytes(damaged)


def _overwrite(data: bytes, source: random.Random, filling: Callable[[int], bytes]) -> bytes:
    begin, end = _span(data, source)
    return data[:begin] + filling(end - begin) + data[end:]


def _repeat(data: bytes, source: random.Random) -> bytes:
    begin, end = _span(data, source)
    return data[:end] + data[begin:]


def _swap(data: bytes, source: random.Random) -> bytes:
    first, second = sorted(source.randrange(len(data)) for _ in range(2))
    return data[second:] + data[first:second] + data[:first]


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "bytes flipped": _flip,
    "zeros": lambda data, source: _overwrite(data, source, bytes),
    "noise": lambda data, source: _overwrite(data, source, source.randbytes),
    "a piece lost": lambda data, source: _overwrite(data, source, lambda size: b""),
    "a piece inserted": lambda data, source: data[: (at := source.randrange(len(data)))] + bytes(99) + data[at:],
    "a piece repeated": _repeat,
    "pieces exchanged": _swap,
    "cut off": lambda data, source: data[: source.randrange(len(data))],
    "noise alone": lambda data, source: source.randbytes(source.randint(0, len(data))),
}


def resume_over_damage(folder: Path, run: Run, kind: str, source: random.Random) -> str:
    """Damage the run's file, resume, and return what is wrong then; "" if nothing is."""
    path = folder / _NAME
    path.write_bytes(DAMAGES[kind](run.file, source))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            readable = [step for step in _steps(folder) if step <= _CHECKPOINT]
            _train(folder, run, resumes=True)
            steps = _steps(folder)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    odd = [str(warning.message) for warning in caught if "is damaged: " not in str(warning.message)]
    if odd:
        return f"an odd warning: {odd[0]}"
    if steps[-_CHECKPOINT:] != list(range(_CHECKPOINT + 1, _LAST + 1)):
        return f"after the resume TensorBoard reads the steps {steps}"
    kept = steps[:-_CHECKPOINT]
    # Whole records elsewhere have right checksums, and before the first position nothing says when they were written.
    last = _LAST if kind == "pieces exchanged" else _CHECKPOINT
    if not set(readable) <= set(kept) <= set(range(1, last + 1)):
        return f"before the checkpoint TensorBoard reads the steps {kept}, and {readable} could be read"
    return ""


def _steps(folder: Path) -> list[int]:
    files = sorted(path for path in folder.iterdir() if "tfevents" in path.name)
    return [event.step for path in files for event in EventFileLoader(str(path)).Load() if event.HasField("summary")]
