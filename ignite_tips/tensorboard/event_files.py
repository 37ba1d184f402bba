"""TensorBoard's event files as bytes: append records, keep what a resumed run needs."""

import functools
import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import google_crc32c
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

__all__ = [
    "RecordFile",
    "event_files",
    "last_layout",
    "masked_crc32c",
    "position_in",
    "records",
    "sub_run_files",
    "truncate_after",
    "with_position",
]

# A record: the length, its checksum, the data, their checksum.
_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
_PIECE = 1 << 20  # bytes copied at once
_LAYOUT_TAG = "custom_scalars__config__"
SUB_RUN = ".sub-run"  # how the name of such a file ends
# The trainer's epoch and iteration: 16 bytes in field 1000 of an event, which readers do not know and skip.
_POSITION = struct.Struct("<3sQQ")
_POSITION_KEY = b"\xc2\x3e\x10"


def event_files(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the event files of one run, oldest first, in the order in which TensorBoard reads them."""
    return sorted(path for path in Path(folder).iterdir() if "tfevents" in path.name and path.is_file())


def sub_run_files(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the event files of the runs within a run that its own writer made, such as those of ``add_scalars``."""
    return sorted(Path(folder).glob(f"*/*tfevents*{SUB_RUN}"))


def with_position(event: bytes, epoch: int, iteration: int) -> bytes:
    """Return a serialized event with the trainer's position in it.

    Example:
        >>> Event.FromString(with_position(Event(step=3).SerializeToString(), epoch=1, iteration=2)).step
        3
    """
    return event + _POSITION.pack(_POSITION_KEY, epoch, iteration)


def position_in(event: bytes) -> tuple[int, int] | None:
    """Return the epoch and iteration of the trainer that a serialized event has, if any."""
    if len(event) < _POSITION.size:
        return None
    key, epoch, iteration = _POSITION.unpack_from(event, len(event) - _POSITION.size)
    return (epoch, iteration) if key == _POSITION_KEY else None


def truncate_after(path: Path, *, epoch: int, iteration: int) -> int:
    """Drop what a run wrote to a file after it completed ``iteration`` of ``epoch``. Return how many bytes are damaged.

    A record without a position belongs to the one before it. A damaged record is dropped too, which TensorBoard could
    not read past.
    If anything is dropped, the original file is kept beside the new one, under a name that TensorBoard does not read.
    """
    spans: list[tuple[int, int]] = []  # of bytes that are kept
    damaged, last, is_kept = 0, 0, True
    with open(path, "rb") as file:
        for start, end, data in records(file):
            last = end
            if data is None:
                damaged, is_kept = damaged + end - start, False
            elif (position := position_in(data)) is not None:
                is_kept = position[0] <= epoch and position[1] <= iteration
            if is_kept and spans and spans[-1][1] == start:
                spans[-1] = spans[-1][0], end
            elif is_kept:
                spans.append((start, end))
        if spans != ([(0, last)] if last else []):
            _rewrite(path, file, spans, iteration)
    return damaged


def last_layout(path: Path) -> Layout:
    """Return the last layout of the Custom Scalars tab in a file; an empty one if there is none."""
    layout = Layout()
    with open(path, "rb") as file:
        for _, _, data in records(file):
            if data is not None and _LAYOUT_TAG.encode() in data:
                for value in Event.FromString(data).summary.value:
                    if value.tag == _LAYOUT_TAG:
                        layout = Layout.FromString(value.tensor.string_val[0])
    return layout


def records(file: BinaryIO) -> Iterator[tuple[int, int, bytes | None]]:
    """Yield each record's start and end in a file, and its data; None for data whose checksum is wrong.

    Where a length's checksum is wrong, the next record cannot be found: all the rest is one damaged record. A part of a
    record at the end is not one: a process that is killed leaves it. The file is read one record at a time.
    """
    start, size = 0, os.fstat(file.fileno()).st_size
    while start + _HEADER.size <= size:
        file.seek(start)
        header = file.read(_HEADER.size)
        length, checksum = _HEADER.unpack(header)
        if checksum != masked_crc32c(header[:8]):
            yield start, size, None
            return
        end = start + _HEADER.size + length + _CHECKSUM.size
        if end > size:
            return
        data, (checksum,) = file.read(length), _CHECKSUM.unpack(file.read(_CHECKSUM.size))
        yield start, end, data if checksum == masked_crc32c(data) else None
        start = end


def _rewrite(path: Path, file: BinaryIO, spans: list[tuple[int, int]], iteration: int) -> None:
    new = path.with_name(path.name.replace("tfevents", "new"))
    with open(new, "wb") as target:
        for start, end in spans:
            file.seek(start)
            while start < end:
                start += target.write(file.read(min(end - start, _PIECE)))
    shutil.copyfile(path, path.with_name(path.name.replace("tfevents", f"superseded-after-{iteration}")))
    os.replace(new, path)


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

    def write(self, data: bytes) -> None:
        """Append a record in a single write.

        Raises:
            OSError: if the record could not be written in full.
            ValueError: if the file is closed.
        """
        framed = _header(len(data)) + data + _CHECKSUM.pack(masked_crc32c(data))
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
