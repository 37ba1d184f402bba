"""Read a run's event files, with TensorBoard's own reader."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

__all__ = ["RunAnnotation", "RunRecord", "Series", "find_runs", "read_run"]

_ALL = {"scalars": 0, "tensors": 0, "images": 1, "histograms": 1, "compressedHistograms": 1, "audio": 1}
_ANNOTATIONS = "annotations/text_summary"
_ANNOTATION_LINE = re.compile(r"- \*\*step \d+\*\*, epoch \d+, ([^:]+): (.*)")


@dataclass(frozen=True)
class Series:
    """One curve: its steps, its values, and when each was written."""

    steps: NDArray[np.float64]
    values: NDArray[np.float64]
    times: NDArray[np.float64]


@dataclass(frozen=True)
class RunAnnotation:
    """One annotation, as RunAnnotator wrote it, and when."""

    kind: str
    text: str
    step: int
    time: float


@dataclass(frozen=True)
class RunRecord:
    """A run's name, its curves by tag, and its annotations, earliest first."""

    name: str
    series: dict[str, Series]
    annotations: Sequence[RunAnnotation]


def find_runs(folder: str | os.PathLike[str]) -> list[Path]:
    """Return ``folder`` if it is a run, which has event files; otherwise the runs below it, sorted by name.

    Folders within a run are parts of it, such as the groups of ``LearningRateLogger(run_per_group=True)``.

    Raises:
        ValueError: if there is none.
    """
    found = {file.parent for file in Path(folder).rglob("*tfevents*")} if os.fspath(folder) else set()
    if not found:
        raise ValueError(f"runs must be folders with TensorBoard's event files, got {os.fspath(folder)!r}")
    return sorted(path for path in found if found.isdisjoint(path.parents))


def read_run(path: Path) -> RunRecord:
    """Read all points of the event files in a folder that ``find_runs`` has found."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # no training needs it

    reader = EventAccumulator(str(path), size_guidance=_ALL).Reload()
    series = _read_series(reader)
    for folder_within in sorted({file.parent for file in path.glob("*/*tfevents*")}):
        within = EventAccumulator(str(folder_within), size_guidance=_ALL).Reload()
        series |= {f"{tag}/{folder_within.name}": curve for tag, curve in _read_series(within).items()}
    return RunRecord(path.resolve().name, series, _read_annotations(reader))


def _read_series(reader: "EventAccumulator") -> dict[str, Series]:
    series = {}
    for tag in reader.Tags()["scalars"]:
        points = [(point.step, point.value, point.wall_time) for point in reader.Scalars(tag)]
        series[tag] = Series(*np.array(points, dtype=np.float64).T)
    return series


def _read_annotations(reader: "EventAccumulator") -> list[RunAnnotation]:
    annotations = []
    for tag in reader.Tags()["tensors"]:
        if tag == _ANNOTATIONS or tag.endswith(f"/{_ANNOTATIONS}"):
            for entry in reader.Tensors(tag):
                # Each entry begins with its own annotation, followed by the earlier ones.
                found = _ANNOTATION_LINE.match(entry.tensor_proto.string_val[0].decode())
                if found:
                    text = re.sub(r"\\(.)", r"\1", found[2])
                    annotations.append(RunAnnotation(found[1], text, entry.step, entry.wall_time))
    return sorted(annotations, key=lambda annotation: annotation.time)
