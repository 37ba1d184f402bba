"""Append records to a TensorBoard event file, each of them on its way to the disk at once.

TensorBoard's own writer hands records to a thread, which computes their checksums byte by byte in Python and opens
the file anew for each. Here a checksum takes a few operations of NumPy, so that no thread is needed, and a process
that is killed leaves all that it wrote.
"""

import functools
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["RecordFile", "masked_crc32c"]

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
