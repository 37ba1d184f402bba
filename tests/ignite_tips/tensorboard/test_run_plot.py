"""The picture of whole runs, compared with the event files."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events, EventsList
from ignite.handlers import TensorboardLogger
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from ignite_tips import LearningRateLogger, RunAnnotator, plot_runs
from ignite_tips.core.wiring import annotate
from ignite_tips.plot import main
from ignite_tips.tensorboard.run_reader import read_run


def _train(folder: Path, *, groups: int = 2, lr_ratio: float = 1.1) -> None:
    """Six updates in two epochs, with falling learning rates, and an annotation of each kind after the first epoch.

    A group's learning rate is ``lr_ratio`` times that of the group before it.
    """
    model = nn.ModuleList([nn.Linear(2, 1) for _ in range(groups)])
    optimizer = torch.optim.SGD(
        [
            {"params": layer.parameters(), "name": f"layer{index}", "lr": 0.1 * lr_ratio**index}
            for index, layer in enumerate(model)
        ]
    )

    def update(engine: Engine, batch: float) -> float:
        optimizer.step()
        return batch

    trainer = Engine(update)
    with TensorboardLogger(log_dir=folder) as tb_logger:
        LearningRateLogger(optimizer).attach(trainer, tb_logger)
        RunAnnotator(model, optimizer).attach(trainer, tb_logger)
        for tag, event in (("train", Events.ITERATION_COMPLETED), ("validation", Events.EPOCH_COMPLETED)):
            tb_logger.attach_output_handler(trainer, event, tag, output_transform=lambda loss: {"loss": loss})
        tb_logger.attach_output_handler(trainer, Events.EPOCH_COMPLETED, "validation", output_transform=_accuracy)

        @trainer.on(Events.EPOCH_COMPLETED(once=1))
        def annotate_all(engine: Engine) -> None:
            for group in optimizer.param_groups:
                group["lr"] /= 100
            for kind in ("freeze", "unfreeze", "plateau", "skipped_step"):
                annotate(engine, kind, f"a {kind}")

        engine_metrics = EventsList() | Events.ITERATION_COMPLETED
        trainer.add_event_handler(engine_metrics, lambda engine: engine.state.metrics.update(grad_norm=1.0))
        trainer.run([3.0, 2.0, 1.0], max_epochs=2)


def _accuracy(loss: float) -> dict[str, float]:
    return {"accuracy": 1 - loss / 10}


def _lines(axes: Any) -> dict[str, Any]:
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def test_each_panel_draws_its_curves_by_name(tmp_path: Path) -> None:
    """Learning rates by group, losses, metrics and the gradient norm, with the values that were written."""
    _train(tmp_path)
    panels = {axes.get_ylabel(): axes for axes in plot_runs(tmp_path).axes}
    assert list(panels) == ["learning rate", "loss", "metric", "gradient norm"]
    lrs = _lines(panels["learning rate"])
    assert list(lrs) == ["layer0", "layer1"]
    assert list(lrs["layer0"].get_ydata()) == pytest.approx([0.1] * 3 + [0.001] * 3)
    assert panels["learning rate"].get_yscale() == "log"
    assert list(_lines(panels["loss"])) == ["train/loss", "validation/loss"]
    assert list(_lines(panels["loss"])["train/loss"].get_ydata()) == [3.0, 2.0, 1.0] * 2
    assert list(_lines(panels["metric"])) == ["validation/accuracy"]
    assert list(_lines(panels["gradient norm"])) == ["grad_norm"]


def test_equal_curves_are_one_line_with_all_names(tmp_path: Path) -> None:
    """Only the last of them would be seen; they are apart where one of several runs has them apart."""
    _train(tmp_path / "same", groups=5, lr_ratio=1.0)
    _train(tmp_path / "apart", groups=5)
    assert list(_lines(plot_runs(tmp_path / "same").axes[0])) == ["layer0, layer1, layer2 and 2 more"]
    both = plot_runs([tmp_path / "same", tmp_path / "apart"])
    assert list(_lines(both.axes[0])) == [f"layer{index}" for index in range(5)]


def test_learning_rates_of_one_run_have_one_style(tmp_path: Path) -> None:
    """Also those of a group that begins late, with few points."""
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(60):
            writer.add_scalar("lr/head", 1 / (1 + step), step)
            if step > 30:
                writer.add_scalar("lr/body", 0.5, step)
    assert {line.get_drawstyle() for line in plot_runs(tmp_path).axes[0].lines} == {"default"}


def test_points_of_another_axis_are_placed_by_time(tmp_path: Path) -> None:
    """The values of epochs 1 and 2 are at updates 3 and 6, or just after."""
    _train(tmp_path)
    loss = _lines(plot_runs(tmp_path).axes[1])
    assert list(loss["train/loss"].get_xdata()) == [1, 2, 3, 4, 5, 6]
    first, last = loss["validation/loss"].get_xdata()
    assert 3 <= first < 4
    assert last == 6


def test_annotations_are_lines_in_every_panel_and_named_once(tmp_path: Path) -> None:
    """Lines at one step have different dashes, so all are visible."""
    _train(tmp_path)
    figure = plot_runs(tmp_path)
    for axes in figure.axes:
        upright = [line for line in axes.lines if len(line.get_xdata()) == 2 and len(set(line.get_xdata())) == 1]
        assert len(upright) == 4
        assert len({line.get_color() for line in upright}) == 4
        assert len({str(line._unscaled_dash_pattern) for line in upright}) == 4
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["freeze", "unfreeze", "plateau", "skipped step"]


def test_several_runs_are_told_apart_and_named(tmp_path: Path) -> None:
    """One color per name, one line style per run."""
    for name in ("first", "second"):
        _train(tmp_path / name)
    figure = plot_runs([tmp_path / "first", tmp_path / "second"])
    solid, dashed = (line for line in figure.axes[0].lines if line.get_color() == "#1f77b4")
    assert (solid.get_linestyle(), dashed.get_linestyle()) == ("-", "--")
    assert [text.get_text() for text in figure.legends[0].get_texts()][:2] == ["first", "second"]
    assert plot_runs(tmp_path / "first", title="a title").get_suptitle() == "a title"


def test_a_long_noisy_curve_gets_a_smoothed_one(tmp_path: Path) -> None:
    """The points stay, in a lighter color; values that are not finite leave no gap in the mean."""
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(1000):
            writer.add_scalar("train/loss", float("nan") if step == 500 else 2.0 + (-1) ** step, step)
    pale, smooth = plot_runs(tmp_path).axes[0].lines
    assert (pale.get_alpha(), smooth.get_alpha()) == (0.3, None)
    assert max(abs(smooth.get_ydata() - 2.0)) < 0.1


def test_many_groups_have_a_short_legend(tmp_path: Path) -> None:
    """Twelve entries; the last one says how many more there are."""
    _train(tmp_path, groups=40)
    entries = [text.get_text() for text in plot_runs(tmp_path).axes[0].get_legend().get_texts()]
    assert len(entries) == 12
    assert entries[-1] == "and 29 more"


def test_the_command_writes_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It writes a PNG and says where, and of how many runs."""
    _train(tmp_path / "run")
    picture = tmp_path / "picture.png"
    main([str(tmp_path / "run"), "-o", str(picture), "--title", "a run"])
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == f"wrote {picture}, with 1 run\n"


def test_a_folder_stands_for_the_runs_below_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As in TensorBoard, also further below; the folders within a run are parts of it."""
    for folder in ("first", "first/head", "more/second"):
        with SummaryWriter(str(tmp_path / "runs" / folder)) as writer:
            writer.add_scalar("lr", 0.5, 1)
    figure = plot_runs(tmp_path / "runs")
    assert figure.get_suptitle() == "first, second"
    picture = tmp_path / "picture.png"
    main([str(tmp_path / "runs"), "-o", str(picture)])
    assert capsys.readouterr().out == f"wrote {picture}, with 2 runs\n"


def test_the_command_fails_with_a_sentence(tmp_path: Path) -> None:
    """It prints no traceback and returns an exit code."""
    result = subprocess.run(
        [sys.executable, "-m", "ignite_tips.plot", str(tmp_path), "-o", str(tmp_path / "x.png")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr == (
        "python -m ignite_tips.plot: error: runs must be folders with TensorBoard's event files, got "
        f"{str(tmp_path)!r}\n"
    )


def test_runs_without_curves_are_refused(tmp_path: Path) -> None:
    """The error names a folder without files or without curves."""
    expected = f"runs must be folders with TensorBoard's event files, got {str(tmp_path / 'nowhere')!r}"
    with pytest.raises(ValueError, match=re.escape(expected)):
        plot_runs(tmp_path / "nowhere")
    with SummaryWriter(str(tmp_path)):
        pass
    with pytest.raises(ValueError, match=f"runs must have curves to draw, got none in {re.escape(str(tmp_path))}"):
        plot_runs(tmp_path)
    with pytest.raises(ValueError, match="runs must have at least one folder, got none"):
        plot_runs([])


def test_without_matplotlib_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the extra to install."""
    _train(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "ignite_tips._figures", raising=False)
    with pytest.raises(ImportError, match=re.escape("pip install ignite-tips[plot]")):
        plot_runs(tmp_path)


def test_a_run_is_read_completely(tmp_path: Path) -> None:
    """All points, of which TensorBoard shows only some, and all annotations with their texts."""
    with SummaryWriter(str(tmp_path / "long")) as writer:
        for step in range(3000):
            writer.add_scalar("x", step, step)
    assert len(read_run(tmp_path / "long").series["x"].steps) == 3000
    _train(tmp_path / "marked")
    annotations = read_run(tmp_path / "marked").annotations
    assert [(annotation.kind, annotation.text, annotation.step) for annotation in annotations] == [
        ("freeze", "a freeze", 3),
        ("unfreeze", "a unfreeze", 3),
        ("plateau", "a plateau", 3),
        ("skipped step", "a skipped_step", 3),
    ]
