"""The pictures in RESULTS.md: all tips on, each tip alone, and how costs grow."""

from typing import TYPE_CHECKING, Any

from benchmarks.tables import Table
from benchmarks.timing import Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw"]

INK, SOFT, GRID = "#1f2933", "#66727f", "#e3e8ee"
OURS, OTHERS, HAND = "#d1495b", "#3d6d99", "#9aa5b1"
COLORS = {"hand-written PyTorch": HAND, "Ignite with our handlers": OURS}
STYLE = {"font.size": 9, "text.color": INK, "axes.labelcolor": SOFT, "ytick.color": INK, "xtick.color": SOFT}
LEFT = {"ha": "left", "va": "center", "fontsize": 9}


def draw(results: dict[str, list[Table]], machine: str = "") -> "dict[str, Figure]":
    """Draw the results of ``training``, of every benchmark's peers, and of ``growth``, as far as they exist.

    Each is a picture of its own, by name: "training", "tips" and "growth".
    """
    from matplotlib import rc_context

    peers = [(name, table) for name, tables in results.items() for table in tables if table.name == "peers"]
    rows = sum(len(table.rows) for _, table in peers) + len(peers)
    with rc_context(STYLE):
        figures = {
            "training": _new_figure(3.6, machine),
            "tips": _new_figure(0.9 + 0.215 * rows, machine),
            "growth": _new_figure(5.0, machine),
        }
        _draw_training(figures["training"], next(iter(results.get("training", [])), None))
        _draw_peers(figures["tips"], peers)
        _draw_growth(figures["growth"], {table.name: table for table in results.get("growth", [])})
    return figures


def _new_figure(height: float, machine: str) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, height), facecolor="white", layout="constrained")
    figure.supxlabel(machine, fontsize=7, color=SOFT)
    return figure


def _draw_training(part: "Figure", table: Table | None) -> None:
    if table is None:
        return
    _title(part, "All tips on: the time of an update over the hand-written one", "less is better")
    kinds = list(dict.fromkeys((row[0], row[1]) for row in table.rows))
    loops = list(dict.fromkeys(str(row[2]) for row in table.rows))
    tasks = list(dict.fromkeys(task for task, _ in kinds))
    grid = part.subplots(1, len(tasks), sharey=True)
    for axes, task in zip([grid] if len(tasks) == 1 else grid, tasks, strict=True):
        for record in table.records(task=task):
            place, fused = loops.index(record["loop"]), record["AdamW"] == "fused"
            color = COLORS.get(record["loop"], OTHERS)
            _mark(axes, record["÷ hand-written"], place + (0.17 if fused else -0.17), color, hollow=fused)
        axes.set_title(task, fontsize=10, color=INK, loc="left")
        axes.set_yticks(range(len(loops)), loops)
        _bar_line(axes)
    axes.invert_yaxis()
    axes.plot([], [], "o", color=SOFT, label="AdamW")
    axes.plot([], [], "o", color=SOFT, markerfacecolor="white", label="AdamW, fused")
    _legend(part, axes)


def _draw_peers(part: "Figure", peers: list[tuple[str, Table]]) -> None:
    if not peers:
        return
    _title(part, "Each tip alone: our cost over theirs", "left of the line ours costs less; quartiles")
    axes: Axes = part.subplots()
    names, place = [], 0.0
    for benchmark, table in peers:
        axes.text(
            -0.005,
            place,
            benchmark.replace("_", " "),
            transform=axes.get_yaxis_transform(),
            **(LEFT | {"ha": "right", "fontweight": "bold"}),
        )
        place += 1
        for record in table.records():
            for column, color in (
                ("ours ÷ by hand", HAND),
                ("ours ÷ best toolkit", OTHERS),
            ):
                cell = record[column]
                if isinstance(cell, Spread) and cell.middle > 0:
                    _mark(axes, cell, place, color)
            names.append((place, record["case"], record["best toolkit"]))
            place += 1
    axes.set_yticks([at for at, _, _ in names], [name for _, name, _ in names])
    for at, _, toolkit in names:
        if toolkit:
            axes.text(1.01, at, toolkit, transform=axes.get_yaxis_transform(), color=OTHERS, **LEFT)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_ylim(place - 0.4, -0.6)
    _bar_line(axes)
    axes.plot([], [], "o", color=HAND, label="÷ by hand")
    axes.plot([], [], "o", color=OTHERS, label="÷ best toolkit (named at the right)")
    _legend(part, axes)


def _draw_growth(part: "Figure", tables: dict[str, Table]) -> None:
    if not tables:
        return
    _title(part, "Growth: the cost of a tip per update, µs", "by tensors above, by param groups of ten below")
    tips = list(dict.fromkeys(row[0] for row in tables["tensors"].rows))
    grid: Any = part.subplots(2, len(tips), sharey="row", squeeze=False)
    for line, what in zip(grid, ("tensors", "groups"), strict=True):
        for axes, tip in zip(line, tips, strict=True):
            records = tables[what].records(tip=tip)
            for column, color, style in (("by hand, µs", HAND, "--"), ("ours, µs", OURS, "-")):
                # Less than a microsecond is noise.
                points = [(record[what], max(record[column], 1)) for record in records if record[column] is not None]
                if points:
                    axes.plot(*zip(*points, strict=True), style, color=color, marker="o", markersize=3, linewidth=1.6)
            axes.set(xscale="log", yscale="log", xlabel=what)
            axes.tick_params(which="minor", length=0)
            axes.tick_params(which="major", length=0)
            axes.grid(color=GRID)
            if what == "tensors":
                axes.set_title(tip, fontsize=9, color=INK)
            _clean(axes)
    grid[0][0].plot([], [], "--", color=HAND, label="by hand")
    grid[0][0].plot([], [], "-", color=OURS, label="ours")
    _legend(part, grid[0][0])


def _legend(part: "Figure", axes: "Axes") -> None:
    part.legend(*axes.get_legend_handles_labels(), frameon=False, fontsize=8, loc="upper right", ncols=3)


def _mark(axes: "Axes", value: Spread, place: float, color: str, *, hollow: bool = False) -> None:
    axes.plot(
        [max(value.low, 1e-3), value.high], [place, place], color=color, alpha=0.45, linewidth=3, solid_capstyle="round"
    )
    axes.plot(value.middle, place, "o", color=color, markerfacecolor="white" if hollow else color, markersize=5.5)


def _bar_line(axes: "Axes") -> None:
    axes.axvline(1, color=INK, linewidth=1.1, zorder=1)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=GRID, zorder=0)
    _clean(axes)


def _clean(axes: "Axes") -> None:
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)


def _title(part: "Figure", text: str, more: str) -> None:
    part.suptitle(f"{text}   ({more})", x=0.01, ha="left", fontsize=11.5, fontweight="bold")
