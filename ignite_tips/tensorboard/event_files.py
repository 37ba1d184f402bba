"""TensorBoard's event files as bytes: append records, keep what a resumed run needs."""

import functools
import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

__all__ = ["RecordFile", "event_files", "last_layout", "masked_crc32c", "position_event", "truncate_after"]

# A record: the length, its checksum, the data, their checksum.
_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
_LAYOUT_TAG = "custom_scalars__config__"
_POSITION = "trainer at epoch {} iteration {}"


def event_files(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the event files of one run, oldest first, in the order in which TensorBoard reads them."""
    return sorted(path for path in Path(folder).iterdir() if "tfevents" in path.name and path.is_file())


def position_event(epoch: int, iteration: int, time: float) -> Event:
    """Return an event that records the trainer's position; TensorBoard ignores it."""
    return Event(wall_time=time, step=iteration, session_log=SessionLog(msg=_POSITION.format(epoch, iteration)))


def truncate_after(path: Path, *, epoch: int, iteration: int) -> bool:
    """Drop what a run wrote to a file after it completed ``iteration`` of ``epoch``. Return whether anything was.

    The records that follow a ``position_event`` were written at that position. The original file is kept beside the
    new one, under a name that TensorBoard does not read.
    """
    data = path.read_bytes()
    kept, dropped, is_kept = [], 0, True
    for start, end in _records(data):
        position = _parse_position(data[start + _HEADER.size : end - _CHECKSUM.size])
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


def last_layout(path: Path) -> Layout:
    """Return the last layout of the Custom Scalars tab in a file; an empty one if there is none."""
    data, layout = path.read_bytes(), Layout()
    for start, end in _records(data):
        record = data[start + _HEADER.size : end - _CHECKSUM.size]
        if _LAYOUT_TAG.encode() in record:
            for value in Event.FromString(record).summary.value:
                if value.tag == _LAYOUT_TAG:
                    layout = Layout.FromString(value.tensor.string_val[0])
    return layout


def _records(data: bytes) -> Iterator[tuple[int, int]]:
    start = 0
    while start + _HEADER.size <= len(data):
        length, _ = _HEADER.unpack_from(data, start)
        end = start + _HEADER.size + length + _CHECKSUM.size
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


class RecordFile:
    """A file of records: the length of each, its checksum, the data, their checksum.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = RecordFile(Path(folder, "events.out.tfevents"))
        ...     file.write(b"data")
        ...     file.close()
        ...     Path(folder, "events.out.tfevents").stat().st_size
        20
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115  # closed by close()

    def write(self, *records: bytes) -> None:
        """Append records in a single write.

        Raises:
            OSError: if the records could not be written in full.
            ValueError: if the file is closed.
        """
        framed = b"".join(_header(len(data)) + data + _CHECKSUM.pack(masked_crc32c(data)) for data in records)
        written = self._file.write(framed)
        if written != len(framed):
            raise OSError(f"{written} of {len(framed)} bytes could be written to {self._file.name!r}")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def masked_crc32c(data: bytes) -> int:
    """Return the checksum that follows ``data`` in a record: its CRC-32C, masked as the format requires.

    Example:
        >>> hex(masked_crc32c(b"123456789"))  # the CRC-32C is 0xe3069283
        '0xc78ab0e5'
    """
    crc: int = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


@functools.cache
def _header(length: int) -> bytes:
    size = struct.pack("<Q", length)
    return size + _CHECKSUM.pack(masked_crc32c(size))
