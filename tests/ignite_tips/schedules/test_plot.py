"""plot_schedule: a line and a legend entry per group, without a window."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

from ignite_tips import plot_schedule, simulate_schedule


def _groups(count: int) -> SGD:
    return SGD([{"params": [torch.nn.Parameter(torch.ones(1))], "lr": 1.0 + n, "name": f"g{n}"} for n in range(count)])


def test_draws_every_group_by_name(tmp_path: Path) -> None:
    """The figure has each group's learning rates under its name, and can be saved."""
    lrs = simulate_schedule(StepLR(_groups(2), 2), 5)
    figure = plot_schedule(lrs, title="two groups", xlabel="epoch")
    (axes,) = figure.axes
    assert {line.get_label(): list(line.get_ydata()) for line in axes.lines} == lrs
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["g0", "g1"]
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == ("two groups", "epoch", "learning rate")
    figure.savefig(tmp_path / "schedule.png")
    assert (tmp_path / "schedule.png").read_bytes().startswith(b"\x89PNG")


def test_one_group_needs_no_legend() -> None:
    """A single line has no legend."""
    assert plot_schedule({"0": [1.0, 0.5]}).axes[0].get_legend() is None


def test_draws_into_given_axes() -> None:
    """With ``axes`` it draws there and returns the figure of these axes."""
    figure = Figure()
    axes = figure.subplots(1, 2)
    assert plot_schedule({"a": [1.0, 0.1]}, axes=axes[1], log_scale=True) is figure
    assert (len(axes[0].lines), len(axes[1].lines), axes[1].get_yscale()) == (0, 1, "log")


def test_draws_arrays_and_tensors() -> None:
    """A line may be whatever has numbers."""
    figure = plot_schedule({"a": np.linspace(0, 1, 3), "b": torch.linspace(1, 2, 3), "c": range(2)})
    assert [list(line.get_ydata()) for line in figure.axes[0].lines] == [[0, 0.5, 1], [1, 1.5, 2], [0, 1]]


def test_equal_learning_rates_are_one_line_with_all_names() -> None:
    """As of a group and of its parameters without weight decay: only the last line would be seen."""
    figure = plot_schedule({"body": [1.0, 0.5], "body-no_decay": [1.0, 0.5], "head": [2.0, 1.0]})
    assert [line.get_label() for line in figure.axes[0].lines] == ["body, body-no_decay", "head"]


@pytest.mark.parametrize(
    ("lrs", "error", "message"),
    [
        ([0.1, 0.2], TypeError, "learning_rates must be a mapping from names to lists of numbers, got"),
        ({}, ValueError, "learning_rates must have at least one name with at least one number, got none"),
        ({"a": []}, ValueError, "learning_rates must have at least one name with at least one number, got none"),
    ],
)
def test_nothing_to_draw(lrs: Any, error: type[Exception], message: str) -> None:
    """Empty or wrong learning rates are refused."""
    with pytest.raises(error, match=message):
        plot_schedule(lrs)


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    """If matplotlib is missing, the error says how to install it."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "ignite_tips._figures", raising=False)
    with pytest.raises(ImportError, match=r"pip install ignite-tips\[plot\]"):
        plot_schedule({"a": [1.0]})


def test_a_figure_shows_itself_in_a_notebook_without_pyplot() -> None:
    """It has a picture for IPython, with the size to show it in, and pyplot knows nothing of it."""
    data, size = plot_schedule({"a": [1.0, 0.1]})._repr_png_()
    assert data.startswith(b"\x89PNG")
    assert size == {"width": 672, "height": 384}
    assert int.from_bytes(data[16:20]) == 2 * size["width"]
