"""What a user sees in TensorBoard after a run: a real server, in a real headless Chromium."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from ignite.handlers import TensorboardLogger

from ignite_tips import LearningRateLogger
from tests.e2e.browser import Browser, chromium, find_chromium, tensorboard
from tests.e2e.demo_run import train

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(find_chromium() is None, reason="needs chromium and chromedriver"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
GROUPS = ("lr/stem (demo)", "lr/body (demo)", "lr/head (demo)")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Browser, str]]:
    """A browser, and the address of a TensorBoard with one run."""
    folder: Path = tmp_path_factory.mktemp("page") / "runs"
    train(folder / "demo", epochs=4)
    with tensorboard(folder) as address, chromium() as browser:
        yield browser, address


def test_custom_scalars_shows_one_chart_with_every_group(page: tuple[Browser, str]) -> None:
    """The chart's title is lr, and each group has a line under its name."""
    browser, address = page
    browser.open(f"{address}/#custom_scalars")
    text = browser.wait_for(lambda browser: "Matches (3)" in browser.text() and browser.text())
    lines = text.splitlines()
    chart = lines[lines.index("optimizer") : lines.index("gradients")]
    assert chart.count("lr") == 1
    assert set(GROUPS) <= set(chart)
    assert [line for line in chart if line.startswith("Matches")] == ["Matches (3)"]
    drawn = browser.wait_for(
        lambda browser: browser.run(
            "const chart = elements.find(e => e.tagName === 'VZ-LINE-CHART2');"
            "return all(chart.shadowRoot).filter(e => e.tagName === 'path' && (e.getAttribute('d') || '').length > 500)"
            ".length;"
        )
    )
    assert drawn >= 3


def test_scalars_shows_every_group_by_name(page: tuple[Browser, str]) -> None:
    """Each group has its own chart in the Scalars tab."""
    browser, address = page
    browser.open(f"{address}/#scalars&tagFilter=lr%2F")
    text = browser.wait_for(lambda browser: "tag:" in browser.text() and browser.text())
    assert {"lr/stem", "lr/body", "lr/head"} <= set(text.splitlines())


def test_text_shows_the_summary_and_the_annotations(page: tuple[Browser, str]) -> None:
    """The model is a table with groups and learning rates, and the annotations are sentences."""
    browser, address = page
    browser.open(f"{address}/#text&tagFilter=model")
    text = browser.wait_for(lambda browser: "Parameters:" in browser.text() and browser.text())
    assert "Parameters: 9,978 (5,306 trainable, 4,672 frozen)" in text
    lines = text.splitlines()
    row = lines.index("body.0")
    assert lines[row : row + 8] == [
        "body.0",
        "Conv2d",
        "48\u00d716\u00d78\u00d78",
        "48\u00d732\u00d78\u00d78",
        "4,608",
        "frozen",
        "body",
        "0.001 (base 0.1)",
    ]
    browser.open(f"{address}/#text&tagFilter=annotations")
    text = browser.wait_for(lambda browser: "unfreeze" in browser.text() and browser.text())
    assert "unfreeze: body.*; 100.0% of the parameters train" in text
    assert "learning rate" in text


def test_each_group_has_its_own_color_in_one_chart(tmp_path: Path) -> None:
    """With a run per group, in the Scalars tab."""
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "name": name} for name in ("stem", "body", "head")]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    optimizer.param_groups[1]["lr"], optimizer.param_groups[2]["lr"] = 0.2, 0.3
    trainer = Engine(lambda engine, batch: optimizer.step())
    with TensorboardLogger(tmp_path / "runs" / "demo") as tb_logger:
        LearningRateLogger(optimizer, run_per_group=True).attach(trainer, tb_logger)
        trainer.run(range(9))
    with tensorboard(tmp_path / "runs") as address, chromium() as browser:
        browser.open(f"{address}/#scalars&tagFilter=%5Elr")
        colors = browser.wait_for(
            lambda browser: (
                len(
                    found := browser.run(
                        "return [...new Set(elements.filter(e => e.tagName === 'path' && (e.getAttribute('d') || '')"
                        ".includes('L')).map(e => getComputedStyle(e).stroke).filter(c => c.startsWith('rgb(')))];"
                    )
                )
                >= 3
                and found
            )
        )
        assert "lr/stem" not in browser.text()
        assert len(colors) == 3, colors
