"""Draw learning rates."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import NoneType
from typing import TYPE_CHECKING, Literal, cast

from ignite_tips._checks import check_instance, check_iterable, check_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_schedule"]


def plot_schedule(
    learning_rates: Mapping[str, Sequence[float]],
    *,
    title: str | None = None,
    xlabel: str = "step",
    log_scale: bool = False,
    axes: "Axes | None" = None,
) -> "Figure":
    """Draw learning rates by step, as ``simulate_schedule`` returns them: a line per name; equal lines are one.

    Needs matplotlib: ``pip install ignite-tips[plot]``. No window opens: save the figure with ``savefig``. A notebook
    shows it as a cell's last expression.

    Args:
        learning_rates: for each name in the legend, the learning rate in use at each step, at least one.
        title: the title above the picture; None for none.
        xlabel: what a step is: an update, an epoch.
        log_scale: True for a logarithmic axis, for groups whose learning rates are orders of magnitude apart.
        axes: matplotlib's Axes to draw in, instead of a new figure.

    Returns:
        The figure.

    Raises:
        ImportError: without matplotlib.
        TypeError: if an argument has the wrong type.
        ValueError: if there is nothing to draw.

    Example:
        >>> figure = plot_schedule({"body": [0.1, 0.05, 0.025], "head": [1.0, 0.5, 0.25]}, title="decay")
        >>> [line.get_label() for line in figure.axes[0].lines]
        ['body', 'head']
    """
    check_instance("learning_rates", learning_rates, Mapping, "a mapping from names to lists of numbers")
    lines: dict[str, list[float]] = {}
    for name, line in learning_rates.items():
        check_instance("each name in learning_rates", name, str, "a string")
        check_iterable(f"learning_rates of {name!r}", line, "a list of numbers")
        lines[name] = [check_number(f"each of the learning_rates of {name!r}", value) for value in line]
    if not lines or not all(lines.values()):
        raise ValueError("learning_rates must have at least one name with at least one number, got none")
    check_instance("title", title, (str, NoneType), "a string or None")
    check_instance("xlabel", xlabel, str, "a string")
    check_instance("log_scale", log_scale, bool, "True or False")
    axes = _new_axes() if axes is None else _checked_axes(axes)
    _draw(axes, lines)
    axes.set(xlabel=xlabel, ylabel="learning rate", yscale="log" if log_scale else "linear")
    if not log_scale:
        axes.set_ylim(bottom=0)
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4))
    if title is not None:
        axes.set_title(title)
    if len(lines) > 1:
        axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    return cast("Figure", axes.figure).figure  # that of a subfigure is the whole one


def _draw(axes: "Axes", lines: Mapping[str, Sequence[float]]) -> None:
    from ignite_tips._figures import name_line

    equal: dict[tuple[float, ...], list[str]] = {}
    for name, line in lines.items():
        equal.setdefault(tuple(line), []).append(name)
    for line, names in equal.items():
        axes.plot(range(len(line)), line, label=name_line(names), drawstyle=_style(line), linewidth=1.6)


def _style(line: Sequence[float]) -> Literal["steps-post", "default"]:
    # A learning rate is constant between two steps; drawing that helps if there are few changes.
    changes = sum(one != other for one, other in pairwise(line))
    return "steps-post" if len(line) <= 50 or changes < len(line) / 4 else "default"


def _checked_axes(axes: object) -> "Axes":
    from matplotlib.axes import Axes

    check_instance("axes", axes, Axes, "matplotlib's Axes or None")
    return cast("Axes", axes)


def _new_axes() -> "Axes":
    try:
        from ignite_tips._figures import NotebookFigure
    except ImportError as error:
        raise ImportError("plot_schedule() needs matplotlib; install it with: pip install ignite-tips[plot]") from error
    return NotebookFigure(figsize=(7, 4), layout="constrained").subplots()
