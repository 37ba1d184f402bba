"""The picture of heartbeats in RESULTS.md: what they cost by the number of nodes, and what that means for 10,000."""

from typing import TYPE_CHECKING

from benchmarks.picture import GRID, INK, OURS, SOFT
from benchmarks.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_heartbeats"]

_MANY = 10_000
_PANELS = {
    "a node": ("requests a node and second", "linear", "bar"),
    "host's processor, cores": ("cores of the host's processor", "log", "bar "),
    "lost node noticed by all, s": ("seconds until all notice a lost node", "linear", "bar  "),
}


def draw_heartbeats(table: Table) -> "Figure":
    """Draw each figure over the number of nodes, with its bar; the processor's use also for 10,000 nodes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3), facecolor="white", layout="constrained")
    records = table.records()
    nodes = [record["nodes"] for record in records]
    for axes, (column, (title, scale, bar)) in zip(figure.subplots(1, len(_PANELS)), _PANELS.items(), strict=True):
        values = [max(record[column], 1e-4) for record in records]
        axes.plot(nodes, values, "o-", color=OURS, markersize=5)
        axes.axhline(records[-1][bar].most, color=SOFT, linestyle="--", linewidth=1)
        axes.text(nodes[0], records[-1][bar].most, "bar", color=SOFT, va="bottom", fontsize=8)
        if scale == "log":
            axes.plot([nodes[-1], _MANY], [values[-1], values[-1] * _MANY / nodes[-1]], ":", color=OURS)
            axes.text(_MANY, values[-1], "expected\nat 10,000", color=SOFT, ha="right", va="top", fontsize=8)
        axes.set(xscale="log", yscale=scale, xlabel="nodes")
        axes.set_title(title, fontsize=10, color=INK, loc="left")
        if scale == "linear":
            axes.set_ylim(0, 1.15 * records[-1][bar].most)
        axes.grid(color=GRID)
        axes.spines[["top", "right"]].set_visible(False)
    return figure
