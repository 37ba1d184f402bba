"""Records, against TensorBoard's own writer and reader."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow
from tensorboard.summary.writer.record_writer import RecordWriter

from ignite_tips.tensorboard.event_files import RecordFile, masked_crc32c


@given(st.binary(max_size=3000))
@example(b"")
def test_checksums_equal_tensorboards(data: bytes) -> None:
    """For any bytes of any length."""
    assert masked_crc32c(data) == pywrap_tensorflow.masked_crc32c(data)


def test_the_file_is_byte_for_byte_tensorboards(tmp_path: Path) -> None:
    """Each record is in it when write() returns."""
    records = [b"", b"one", bytes(5000)]
    with open(tmp_path / "theirs", "wb") as file:
        theirs = RecordWriter(file)
        for record in records:
            theirs.write(record)
    ours = RecordFile(tmp_path / "ours")
    sizes = []
    for record in records:
        ours.write(record)
        sizes.append((tmp_path / "ours").stat().st_size)
    ours.close()
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert sizes == [16, 16 + 19, 16 + 19 + 5016]


def test_a_full_disk_is_reported() -> None:
    """By the call that could not write, not later."""
    file = RecordFile(Path("/dev/full"))
    with pytest.raises(OSError, match="No space left on device"):
        file.write(b"data")
    file.close()


def test_a_closed_file_refuses_records(tmp_path: Path) -> None:
    """The error is Python's own."""
    file = RecordFile(tmp_path / "file")
    file.close()
    with pytest.raises(ValueError, match="closed file"):
        file.write(b"data")
