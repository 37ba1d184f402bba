"""TensorBoard's event files as bytes: which records a resumed run keeps of what was written before it."""

import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog

__all__ = ["event_files", "keep_until", "position_event"]

# A record: its length and that number's checksum, the data, the data's checksum.
_HEADER = struct.Struct("<QI")
_FOOTER_SIZE = 4
_POSITION = "trainer at epoch {} iteration {}"


def event_files(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the event files of one run, the oldest first, as TensorBoard reads them."""
    return sorted(path for path in Path(folder).iterdir() if "tfevents" in path.name and path.is_file())


def position_event(epoch: int, iteration: int, time: float) -> Event:
    """Return an event that says where the trainer stands; TensorBoard passes over it."""
    return Event(wall_time=time, step=iteration, session_log=SessionLog(msg=_POSITION.format(epoch, iteration)))


def keep_until(path: Path, *, epoch: int, iteration: int) -> bool:
    """Leave in a file only what a run wrote until ``iteration``, in ``epoch``, was completed; say if that is less.

    What stands behind each ``position_event`` was written when the trainer was there. The file as it was stays
    beside the new one under a name that TensorBoard does not read.
    """
    data = path.read_bytes()
    kept, dropped, is_kept = [], 0, True
    for start, end in _records(data):
        position = _parse_position(data[start + _HEADER.size : end - _FOOTER_SIZE])
        if position is not None:
            is_kept = position[0] <= epoch and position[1] <= iteration
        if is_kept:
            kept.append(data[start:end])
        else:
            dropped += 1
    if dropped:
        new = path.with_name(path.name.replace("tfevents", "new"))
        new.write_bytes(b"".join(kept))
        shutil.copyfile(path, path.with_name(path.name.replace("tfevents", f"superseded-after-{iteration}")))
        os.replace(new, path)
    return dropped > 0


def _records(data: bytes) -> Iterator[tuple[int, int]]:
    start = 0
    while start + _HEADER.size <= len(data):
        length, _ = _HEADER.unpack_from(data, start)
        end = start + _HEADER.size + length + _FOOTER_SIZE
        if end > len(data):
            return
        yield start, end
        start = end


def _parse_position(data: bytes) -> tuple[int, int] | None:
    event = Event.FromString(data)
    words = event.session_log.msg.split() if event.HasField("session_log") else []
    if len(words) != 6 or event.session_log.msg != _POSITION.format(words[3], words[5]):
        return None
    return int(words[3]), int(words[5])
