"""Write to a TensorBoard event file: several scalars as one record, texts, chart layouts."""

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import FileWriter, SummaryWriter

from ignite_tips.tensorboard.event_files import event_files, last_layout

__all__ = ["ScalarRecord", "add_chart", "write_charts", "write_text"]


class ScalarRecord:
    """Scalars that are always written together, as one event of the file, with tags exactly as given.

    ``SummaryWriter.add_scalar`` writes one event per value, and replaces characters in the tag.

    Example:
        >>> import tempfile
        >>> record = ScalarRecord(["lr/backbone", "lr/head"])
        >>> with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
        ...     record.write(writer, [0.01, 0.1], step=1)
    """

    def __init__(self, tags: Sequence[str]) -> None:
        self.tags = list(tags)
        self._event = Event(summary=Summary(value=[Summary.Value(tag=tag) for tag in tags]))
        self._slots = list(self._event.summary.value)

    def write(self, writer: Any, values: Sequence[float], step: int, sub_run: str | None = None) -> None:
        """Write ``values``, in the order of the tags, at ``step``; to a run within the writer's if one is named.

        A closed writer starts another file, as when its own methods are called.
        """
        if not isinstance(writer, SummaryWriter):  # tensorboardX, which Ignite prefers if installed
            for tag, value in zip(self.tags, values, strict=True):
                writer.add_scalar(tag, value, step) if sub_run is None else writer.add_scalars(
                    tag, {sub_run: value}, step
                )
            return
        for slot, value in zip(self._slots, values, strict=True):
            slot.simple_value = value
        # The event is serialized at once, so it can be reused for the next step.
        file_writer = _open_run(writer)
        if sub_run is not None:
            file_writer = _open_sub_run(writer, sub_run)
        file_writer.add_event(self._event, step)


def _open_run(writer: Any) -> Any:
    """Return the file writer of the writer's run, a new one if the writer is closed, as its own methods do."""
    if writer.file_writer is None:
        writer.file_writer = _open_file(writer, writer.get_logdir())
        writer.all_writers = {writer.get_logdir(): writer.file_writer}
    return writer.file_writer


def _open_sub_run(writer: Any, name: str) -> Any:
    """Return the file writer of a run within the writer's, as ``add_scalars`` makes them: the writer closes it."""
    folder = f"{writer.get_logdir()}/{name}"
    if folder not in writer.all_writers:
        writer.all_writers[folder] = _open_file(writer, folder)
    return writer.all_writers[folder]


def _open_file(writer: Any, folder: str) -> Any:
    return FileWriter(folder, writer.max_queue, writer.flush_secs, writer.filename_suffix)


def write_text(writer: Any, tag: str, text: str, step: int) -> None:
    """Write ``text``, in Markdown, at ``step``."""
    writer.add_text(tag, text, step)


class _Charts:
    """The charts of one writer. TensorBoard knows one layout per run, so all handlers share this one."""

    def __init__(self) -> None:
        self.layout: dict[str, dict[str, list[Any]]] = {}
        self.is_written = True


_charts: weakref.WeakKeyDictionary[Any, _Charts] = weakref.WeakKeyDictionary()


def add_chart(writer: Any, category: str, title: str, patterns: Sequence[str]) -> None:
    """Put the curves whose tags match any of the regular expressions into one chart of the Custom Scalars tab.

    It shows after ``write_charts`` has written the layout. Adding the same chart again changes nothing.
    """
    charts = _charts.setdefault(writer, _Charts())
    chart = ["Multiline", list(patterns)]
    if charts.layout.setdefault(category, {}).get(title) != chart:
        charts.layout[category][title] = chart
        charts.is_written = False


def write_charts(writer: Any) -> None:
    """Write the layout, if it has changed since it was last written, together with the one that the user wrote."""
    charts = _charts.get(writer)
    if charts is not None and not charts.is_written:
        layout = _written_layout(writer)
        for category, own in charts.layout.items():
            layout[category] = layout.get(category, {}) | own
        writer.add_custom_scalars(layout)
        charts.is_written = True


def _written_layout(writer: Any) -> dict[str, dict[str, list[Any]]]:
    """Return the layout that is in the writer's file, in the form that ``add_custom_scalars`` takes."""
    writer.flush()
    folder = Path(_folder(writer))
    files = event_files(folder) if folder.is_dir() else []  # TensorBoard also writes to remote folders
    layout: dict[str, dict[str, list[Any]]] = {}
    for category in last_layout(files[-1]).category if files else ():
        charts = layout.setdefault(category.title, {})
        for chart in category.chart:
            if chart.HasField("margin"):
                band = chart.margin.series[0]
                charts[chart.title] = ["Margin", [band.value, band.lower, band.upper]]
            else:
                charts[chart.title] = ["Multiline", list(chart.multiline.tag)]
    return layout


def _folder(writer: Any) -> str:
    return str(getattr(writer, "log_dir", None) or writer.logdir)  # torch's, tensorboardX's
