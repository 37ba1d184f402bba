"""Records, against TensorBoard's own writer and reader."""

import tracemalloc
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow
from tensorboard.summary.writer.record_writer import RecordWriter

from ignite_tips.tensorboard.event_files import RecordFile, masked_crc32c, records, truncate_after, with_position


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


def _write_run(path: Path) -> bytes:
    """Write a scalar for each of 12 iterations, each with its position, as one run does; return the file."""
    file = RecordFile(path)
    for iteration in range(1, 13):
        value = Summary.Value(tag="loss", simple_value=0.5)
        scalar = Event(wall_time=1.0, step=iteration, summary=Summary(value=[value]))
        file.write(with_position(scalar.SerializeToString(), (iteration + 3) // 4, iteration))
    file.close()
    return path.read_bytes()


def _steps(path: Path) -> list[int]:
    return [event.step for event in EventFileLoader(str(path)).Load() if event.HasField("summary")]


@given(st.data())
def test_a_damaged_file_keeps_what_was_readable(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whichever bytes are damaged: what TensorBoard could read up to the iteration stays, and nothing later comes."""
    path = tmp_path_factory.mktemp("run") / "events.out.tfevents.1"
    whole = bytearray(_write_run(path))
    places = st.integers(0, len(whole) - 1)
    for place in data.draw(st.lists(places, min_size=1, max_size=5)):
        whole[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(whole)
    readable = [step for step in _steps(path) if step <= 8]
    truncate_after(path, epoch=2, iteration=8)
    steps = _steps(path)
    assert set(readable) <= set(steps) <= set(range(1, 9))
    assert len(steps) == len(set(steps))


def test_a_damaged_record_costs_its_iteration_alone(tmp_path: Path) -> None:
    """TensorBoard reads nothing after it; then it reads the rest."""
    path = tmp_path / "events.out.tfevents.1"
    whole = bytearray(_write_run(path))
    whole[whole.index(with_position(b"", 2, 6))] ^= 1
    path.write_bytes(whole)
    assert _steps(path) == [1, 2, 3, 4, 5]
    assert truncate_after(path, epoch=2, iteration=8) > 0
    assert _steps(path) == [1, 2, 3, 4, 5, 7, 8]
    assert (tmp_path / "events.out.superseded-after-8.1").read_bytes() == whole
    assert truncate_after(path, epoch=2, iteration=8) == 0


def test_a_record_without_a_position_belongs_to_the_one_before(tmp_path: Path) -> None:
    """It stays or goes with it; at the start of the file it stays."""
    path = tmp_path / "events.out.tfevents.1"
    file = RecordFile(path)
    summary = Summary(value=[Summary.Value(tag="loss", simple_value=0.5)])
    events = [Event(step=step, summary=summary).SerializeToString() for step in range(6)]
    for event in (
        events[0],
        with_position(events[1], 1, 1),
        events[2],
        with_position(events[3], 1, 2),
        events[4],
        with_position(events[5], 1, 1),  # of a run that was resumed in between
    ):
        file.write(event)
    file.close()
    assert _steps(path) == [0, 1, 2, 3, 4, 5]  # TensorBoard reads them with a position as without
    truncate_after(path, epoch=1, iteration=1)
    assert _steps(path) == [0, 1, 2, 5]


def test_a_large_file_is_read_in_pieces(tmp_path: Path) -> None:
    """A sparse file takes no more memory than its records."""
    path = tmp_path / "events.out.tfevents.1"
    _write_run(path)
    with open(path, "r+b") as file:
        file.truncate(1 << 33)
    tracemalloc.start()
    with open(path, "rb") as file:
        last = max(end for _, end, data in records(file) if data is not None)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    assert last < 1 << 12


@pytest.mark.parametrize("size", range(0, 200, 7))
def test_a_part_of_a_record_is_no_damage(tmp_path: Path, size: int) -> None:
    """A killed process leaves it; TensorBoard waits for the rest, and the file stays as it is."""
    path = tmp_path / "events.out.tfevents.1"
    path.write_bytes(_write_run(path)[:size])
    assert truncate_after(path, epoch=3, iteration=12) == 0
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_size == size
