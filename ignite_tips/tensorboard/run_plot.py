"""Draw whole runs as a picture, without a server."""

import os
from collections.abc import Callable, Iterable, Sequence
from types import NoneType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ignite_tips._checks import check_instance, check_iterable
from ignite_tips.tensorboard.run_reader import RunAnnotation, RunRecord, Series, find_runs, read_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_runs"]

_COLORS = ("#1f77b4", "#e8710a", "#2a9d4b", "#b5179e", "#7b5cd6", "#8c564b", "#00a5b5", "#a8a800")
_LINE_STYLES = ("-", "--", ":", "-.")
_ANNOTATION_COLORS = {"freeze": "#2b6cb0", "unfreeze": "#2f855a", "plateau": "#c05621", "skipped step": "#c53030"}
_LEGEND_ENTRIES = 12
_SHORT = 50  # points; learning rates are drawn as steps where all have fewer
_LONG = 150  # points; a longer curve gets a smoothed one on top
_Panel = tuple[str, Callable[[str], bool]]


def _last(tag: str) -> str:
    return tag.rpartition("/")[2]


def _is_learning_rate(tag: str) -> bool:
    return tag.startswith("lr/") or "/lr/" in tag


# Each panel's title, and the tags it accepts; the first panel that accepts a tag gets it.
_PANELS: tuple[_Panel, ...] = (
    ("learning rate", _is_learning_rate),
    ("gradient norm", lambda tag: _last(tag) == "grad_norm"),
    ("", lambda tag: _last(tag) in ("grad_clip_coef", "trainable_fraction", "skipped_steps")),
    ("loss", lambda tag: "loss" in _last(tag).lower()),
    ("metric", lambda tag: True),
)
_ORDER = ("learning rate", "loss", "metric", "gradient norm")


def plot_runs(runs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], *, title: str | None = None) -> "Figure":
    """Draw the learning rates by group, losses, metrics and gradient norms of one or several runs.

    Vertical lines show freezing, unfreezing, plateau reductions and skipped updates, as RunAnnotator wrote them. All
    panels use the x axis of the learning rates; a point from another axis is placed by the time at which it was
    written. Several runs differ by line style. Equal curves are one line with all their names.

    Needs matplotlib: ``pip install ignite-tips[plot]``. A notebook shows the figure as a cell's last expression. As a
    command: ``python -m ignite_tips.plot RUN... -o runs.png``.

    Args:
        runs: the folder of one run, or the folders of several. A folder without event files stands for the runs below
            it.
        title: the title above the picture; None shows the runs' names.

    Raises:
        ImportError: without matplotlib.
        TypeError: if an argument has the wrong type.
        ValueError: if no folder is given, no event files are in or below a folder, or no folder has a curve.

    Example:
        >>> import tempfile
        >>> from torch.utils.tensorboard import SummaryWriter
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with SummaryWriter(folder) as writer:
        ...         writer.add_scalar("train/loss", 0.5, 1)
        ...     [axes.get_ylabel() for axes in plot_runs(folder).axes]
        ['loss']
    """
    if not isinstance(runs, str | os.PathLike):
        check_iterable("runs", runs, "a folder or several")
    folders = [runs] if isinstance(runs, str | os.PathLike) else list(runs)
    for folder in folders:
        check_instance("each of runs", folder, (str, os.PathLike), "a folder")
    if not folders:
        raise ValueError("runs must have at least one folder, got none")
    check_instance("title", title, (str, NoneType), "a string or None")
    records = [_on_one_axis(read_run(run)) for folder in folders for run in find_runs(folder)]
    panels = _sort_into_panels(records)
    if not panels:
        raise ValueError(f"runs must have curves to draw, got none in {', '.join(map(str, folders))}")
    figure, all_axes = _new_figure(len(panels))
    for axes, (name, tags) in zip(all_axes, panels.items(), strict=True):
        _draw_panel(axes, name, tags, records)
        _draw_annotations(axes, records)
    all_axes[-1].set_xlabel("step")
    _add_heads(figure, all_axes[0], records, title)
    return figure


def _on_one_axis(record: RunRecord) -> RunRecord:
    """Return the run with all steps on the axis of its learning rates, where the times allow it."""
    reference = _lr_reference(record)
    if reference is None:
        return record

    def moved(series: Series) -> Series:
        if np.isin(series.steps, reference.steps).all() and len(series.steps) > len(reference.steps) / 2:
            return series  # the same axis
        return Series(np.interp(series.times, reference.times, reference.steps), series.values, series.times)

    return RunRecord(record.name, {tag: moved(series) for tag, series in record.series.items()}, record.annotations)


def _lr_reference(record: RunRecord) -> Series | None:
    """Return the longest curve of a learning rate: a frozen group's begins late."""
    lrs = [series for tag, series in record.series.items() if _is_learning_rate(tag)]
    return max(lrs, key=lambda series: len(series.steps), default=None)


def _sort_into_panels(records: Sequence[RunRecord]) -> dict[str, list[str]]:
    panels: dict[str, list[str]] = {name: [] for name in _ORDER}
    for tag in dict.fromkeys(tag for record in records for tag in record.series):
        name = next(name for name, takes in _PANELS if takes(tag))
        if name:
            panels[name].append(tag)
    return {name: tags for name, tags in panels.items() if tags}


def _new_figure(count: int) -> tuple["Figure", Sequence["Axes"]]:
    try:
        from ignite_tips._figures import NotebookFigure
    except ImportError as error:
        raise ImportError("plot_runs() needs matplotlib; install it with: pip install ignite-tips[plot]") from error
    figure = NotebookFigure(figsize=(10, 0.9 + 2.0 * count), dpi=120, layout="constrained")
    return figure, list(figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0])


def _draw_panel(axes: "Axes", name: str, tags: Sequence[str], records: Sequence[RunRecord]) -> None:
    from ignite_tips._figures import name_line

    longest = max(len(record.series[tag].steps) for record in records for tag in tags if tag in record.series)
    same = _equal_curves(tags, records)
    for color, equal in zip(_cycle(_COLORS, len(same)), same, strict=True):
        label: str | None = name_line([_label(name, tag) for tag in equal])
        for record, line_style in zip(records, _cycle(_LINE_STYLES, len(records)), strict=True):
            if equal[0] in record.series:
                style = {"color": color, "linestyle": line_style, "label": label}
                _draw_series(axes, record.series[equal[0]], name, is_short=longest <= _SHORT, **style)
                label = None  # named once
    values = np.concatenate([record.series[tag].values for record in records for tag in tags if tag in record.series])
    positive = values[values > 0]
    if name in ("learning rate", "gradient norm") and len(positive) and np.ptp(np.log10(positive)) > 1.3:
        axes.set_yscale("log")
    axes.set_ylabel(name)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.margins(x=0.01)
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > _LEGEND_ENTRIES:
        labels = [*labels[: _LEGEND_ENTRIES - 1], f"and {len(labels) - _LEGEND_ENTRIES + 1} more"]
    axes.legend(handles[: len(labels)], labels, loc="upper left", bbox_to_anchor=(1.0, 1.02), frameon=False, fontsize=9)


def _equal_curves(tags: Sequence[str], records: Sequence[RunRecord]) -> list[list[str]]:
    """Return the tags, those together whose curves are equal in every run."""
    found: dict[tuple[bytes, ...], list[str]] = {}
    for tag in tags:
        curves = [record.series.get(tag) for record in records]
        key = tuple(b"" if curve is None else curve.steps.tobytes() + curve.values.tobytes() for curve in curves)
        found.setdefault(key, []).append(tag)
    return list(found.values())


def _draw_series(axes: "Axes", series: Series, name: str, *, is_short: bool, **style: Any) -> None:
    steps, values = series.steps, series.values
    if name == "learning rate":
        axes.plot(steps, values, drawstyle="steps-post" if is_short else "default", linewidth=1.6, **style)
    elif len(steps) > _LONG:
        axes.plot(steps, values, linewidth=0.8, alpha=0.3, **{**style, "label": None})
        axes.plot(steps, _smooth(values), linewidth=1.6, **style)
    else:
        axes.plot(steps, values, linewidth=1.6, marker="o", markersize=3, **style)


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of the finite values in a window around each point, a fiftieth of the curve wide."""
    finite = np.isfinite(values)
    window = np.ones(len(values) // 50 * 2 + 1)
    total = np.convolve(np.where(finite, values, 0.0), window, mode="same")
    count = np.convolve(finite.astype(np.float64), window, mode="same")
    mean: NDArray[np.float64] = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return mean


def _draw_annotations(axes: "Axes", records: Sequence[RunRecord]) -> None:
    for record in records:
        for annotation in record.annotations:
            axes.axvline(
                _annotation_step(annotation, record),
                linewidth=1.2,
                alpha=0.8,
                **_annotation_style(annotation.kind),
            )


def _annotation_style(kind: str) -> dict[str, Any]:
    # Each kind has its dashes where the others have gaps, so several at one step stay visible.
    phase = list(_ANNOTATION_COLORS).index(kind) if kind in _ANNOTATION_COLORS else 0
    return {
        "color": _ANNOTATION_COLORS.get(kind, "#555555"),
        "linestyle": (4 * phase, (4, 4 * (len(_ANNOTATION_COLORS) - 1))),
    }


def _annotation_step(annotation: RunAnnotation, record: RunRecord) -> float:
    reference = _lr_reference(record)
    if reference is None:
        return annotation.step
    return float(np.interp(annotation.time, reference.times, reference.steps))


def _add_heads(figure: "Figure", axes: "Axes", records: Sequence[RunRecord], title: str | None) -> None:
    from matplotlib.lines import Line2D

    names = [record.name for record in records]
    figure.suptitle(title if title is not None else ", ".join(names), fontsize=12, x=0.01, ha="left")
    handles = [
        Line2D([], [], color="#333333", linestyle=style, label=name)
        for name, style in zip(names, _cycle(_LINE_STYLES, len(names)), strict=True)
    ]
    kinds = dict.fromkeys(annotation.kind for record in records for annotation in record.annotations)
    annotations = [
        Line2D([], [], color=_ANNOTATION_COLORS.get(kind, "#555555"), linestyle="--", label=kind) for kind in kinds
    ]
    shown = [*(handles if len(records) > 1 else []), *annotations]
    if shown:
        figure.legend(handles=shown, loc="outside upper right", ncols=len(shown), frameon=False, fontsize=9)


def _label(panel: str, tag: str) -> str:
    if panel == "learning rate":
        before, _, group = tag.partition("lr/")
        return f"{before}{group}"
    return tag


def _cycle(styles: Sequence[Any], count: int) -> list[Any]:
    return [styles[index % len(styles)] for index in range(count)]
