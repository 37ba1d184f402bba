"""Records and charts as TensorBoard's own reader finds them."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from torch.utils.tensorboard import SummaryWriter

from ignite_tips.tensorboard.summary_writer import ScalarRecord, add_chart, write_charts, write_text


class _OtherWriter:
    """A writer that is not torch's, like tensorboardX's."""

    file_writer = object()

    def __init__(self) -> None:
        self.written: list[tuple[str, float, int]] = []

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.written.append((tag, value, step))


def _read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def test_one_record_serves_every_step(tmp_path: Path) -> None:
    """Writing a record again does not change what was written before."""
    record = ScalarRecord(["a", "b c"])
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(3):
            record.write(writer, [step, -step], step)
    reader = _read(tmp_path)
    assert [(point.step, point.value) for point in reader.Scalars("b c")] == [(0, 0.0), (1, -1.0), (2, -2.0)]


def test_a_record_needs_a_value_for_each_tag(tmp_path: Path) -> None:
    """Too few or too many are refused."""
    with SummaryWriter(str(tmp_path)) as writer, pytest.raises(ValueError, match="argument 2 is shorter"):
        ScalarRecord(["a", "b"]).write(writer, [1.0], 1)


def test_other_writers_get_the_values_one_by_one() -> None:
    """TensorboardX has another kind of record."""
    writer = _OtherWriter()
    ScalarRecord(["a", "b"]).write(writer, [1.0, 2.0], 3)
    assert writer.written == [("a", 1.0, 3), ("b", 2.0, 3)]


def test_the_layout_is_written_once_until_it_changes(tmp_path: Path) -> None:
    """Each layout is complete, because TensorBoard shows only the last."""
    with SummaryWriter(str(tmp_path)) as writer:
        write_charts(writer)
        add_chart(writer, "optimizer", "lr", ["^lr/"])
        for _ in range(2):
            write_charts(writer)
            add_chart(writer, "optimizer", "lr", ["^lr/"])
        add_chart(writer, "gradients", "norm", ["^norm$"])
        write_charts(writer)
    layouts = [
        Layout.FromString(entry.tensor_proto.string_val[0])
        for entry in _read(tmp_path).Tensors("custom_scalars__config__")
    ]
    assert [[category.title for category in layout.category] for layout in layouts] == [
        ["optimizer"],
        ["optimizer", "gradients"],
    ]


USERS = {
    "losses": {"both": ["Multiline", ["train/loss", "val/loss"]], "band": ["Margin", ["loss", "low", "high"]]},
    "optimizer": {"momentum": ["Multiline", ["momentum/.*"]]},
}


@pytest.mark.parametrize("is_before", [True, False], ids=["before ours", "between two of ours"])
def test_a_layout_of_the_users_own_stays(tmp_path: Path, is_before: bool) -> None:
    """Theirs and ours are in the last layout, also within one category."""
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("train/loss", 1.0, 1)
        if not is_before:
            add_chart(writer, "optimizer", "lr", ["^lr/"])
            write_charts(writer)
        writer.add_custom_scalars(USERS)
        for title in ("lr", "betas"):
            add_chart(writer, "optimizer", title, [f"^{title}/"])
            write_charts(writer)
    *_, last = _read(tmp_path).Tensors("custom_scalars__config__")
    layout = Layout.FromString(last.tensor_proto.string_val[0])
    assert {category.title: [chart.title for chart in category.chart] for category in layout.category} == {
        "losses": ["both", "band"],
        "optimizer": ["momentum", "lr", "betas"],
    }
    band = layout.category[0].chart[1].margin.series[0]
    assert (band.value, band.lower, band.upper) == ("loss", "low", "high")
    assert list(layout.category[0].chart[0].multiline.tag) == ["train/loss", "val/loss"]


@pytest.mark.parametrize("sub_run", [None, "below"])
def test_a_closed_writer_is_opened_again(sub_run: str | None, tmp_path: Path) -> None:
    """As by its own methods, which add to the same new file; closing it again closes that one."""
    record = ScalarRecord(["a b"])
    with SummaryWriter(str(tmp_path)) as writer:
        record.write(writer, [1.0], 1, sub_run)
    with writer:
        record.write(writer, [2.0], 2, sub_run)
        record.write(writer, [3.0], 3, sub_run)
        writer.add_scalar("own", 1.0, 3)
        write_text(writer, "text", "text", 3)
    assert [point.value for point in _read(tmp_path / (sub_run or "")).Scalars("a b")] == [1.0, 2.0, 3.0]
    assert _read(tmp_path).Tags()["tensors"] == ["text/text_summary"]
    assert len(list(tmp_path.glob("*tfevents*"))) == 2
