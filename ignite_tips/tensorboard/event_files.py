"""TensorBoard's event files as bytes: append records, and keep what a resumed run needs."""

import functools
import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

__all__ = ["RecordFile", "event_files", "keep_until", "masked_crc32c", "position_event"]

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


_POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), bits reversed
_START = 0xFFFFFFFF
_CHUNK = 1024
_CHECKSUM = struct.Struct("<I")


class RecordFile:
    """A file of records: each one's length, its checksum, the data, their checksum.

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
        """Append records, all in one go.

        Raises:
            OSError: if they could not be written whole.
            ValueError: if the file is closed.
        """
        framed = b"".join(_header(len(data)) + data + _CHECKSUM.pack(masked_crc32c(data)) for data in records)
        written = self._file.write(framed)
        if written != len(framed):
            raise OSError(f"{written} of {len(framed)} bytes could be written to {self._file.name!r}")

    def close(self) -> None:
        """Write no more."""
        self._file.close()


def masked_crc32c(data: bytes) -> int:
    """Return the checksum that stands behind ``data`` in a record.

    Example:
        >>> hex(masked_crc32c(b"123456789"))  # of 0xe3069283
        '0xc78ab0e5'
    """
    crc = _crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _crc32c(data: bytes) -> int:
    # The checksum is linear: the exclusive or of what each byte contributes that so many others follow, where the
    # checksum of all before is added to the first four bytes.
    state = _START
    for start in range(0, len(data), _CHUNK):
        chunk = data[start : start + _CHUNK]
        head = min(len(chunk), 4)
        mixed = int.from_bytes(chunk[:head], "little") ^ (state & ((1 << 8 * head) - 1))
        values = np.frombuffer(mixed.to_bytes(head, "little") + chunk[head:], dtype=np.uint8)
        contributions = _contributions()[_OFFSETS[-len(chunk) :] + values]
        state = (state >> 8 * head) ^ int(np.bitwise_xor.reduce(contributions))
    return state ^ _START


# Of the last byte of a chunk first.
_OFFSETS = np.arange(_CHUNK - 1, -1, -1) * 256


@functools.cache
def _contributions() -> NDArray[np.uint32]:
    """Return what each byte contributes, for each number of bytes that follow it."""
    last: NDArray[np.uint32] = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        last = np.where(last & 1, (last >> 1) ^ np.uint32(_POLYNOMIAL), last >> 1)
    rows = [last]
    for _ in range(_CHUNK - 1):
        rows.append(last[rows[-1] & 0xFF] ^ (rows[-1] >> 8))
    return np.concatenate(rows)


@functools.cache
def _header(length: int) -> bytes:
    size = struct.pack("<Q", length)
    return size + _CHECKSUM.pack(masked_crc32c(size))
