"""Take the screenshots for README and docs: ``python -m tools.screenshots docs/images``."""

import sys
import tempfile
from pathlib import Path

from ignite_tips import TrainerReport, plot_runs
from tests.e2e.browser import Browser, chromium, tensorboard
from tests.e2e.demo_run import train
from tests.e2e.pages import scripts

REPORT_PAGE = Path(__file__).parents[1] / "docs" / "tips" / "report.md"
# Show lines without smoothing or cropping, as large as the page.
_SHOW_CHART = """
elements.find(e => e.tagName === 'TF-SMOOTHING-INPUT').weight = 0;
elements.find(e => e.tagName === 'PAPER-CHECKBOX' && e.textContent.includes('outliers')).click();
elements.find(e => e.tagName === 'PAPER-ICON-BUTTON' && e.getAttribute('icon') === 'fullscreen').click();
"""
# The lines are animated at first, and highlighted at the pointer.
_IS_DRAWN = """
document.activeElement.blur();
const chart = elements.find(e => e.tagName === 'VZ-LINE-CHART2');
return chart.clientWidth > 800 && all(chart.shadowRoot).filter(e => e.tagName === 'path').map(e => e.getAttribute('d'))
    .join();
"""


# The card shows the newest entry whole, and no other.
_SHOW_TEXT = """
const steps = elements.find(e => e.id === 'steps-container');
const [top, bottom] = [steps.getBoundingClientRect().top, steps.children[1].getBoundingClientRect().bottom];
steps.style.maxHeight = bottom - top + 12 + 'px';
"""
_CARD_BOTTOM = "return Math.ceil(elements.find(e => e.tagName === '{}').getBoundingClientRect().bottom) + 8"
_REPORT = '<!doctype html><body style="font: 14px sans-serif; margin: 16px 24px">{}</body>'


def _wait_until_still(browser: Browser, script: str) -> None:
    seen: list[object] = []

    def is_still(browser: Browser) -> bool:
        seen.append(browser.run(script))
        return len(seen) > 5 and bool(seen[-1]) and all(value == seen[-1] for value in seen[-5:])

    browser.wait_for(is_still)


def main(folder: Path) -> None:
    """Train, open the pages, and save screenshots."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        runs = Path(temporary, "runs")
        train(runs / "digits", run_per_group=True)
        plot_runs(runs / "digits", title="python -m ignite_tips.plot runs/digits").savefig(folder / "run.png")
        with tensorboard(runs) as address, chromium((1280, 900)) as browser:
            browser.open(f"{address}/#scalars&tagFilter=%5Elr")
            browser.wait_for(lambda browser: "tag:\nlr" in browser.text())
            browser.run(_SHOW_CHART)
            _save(browser, "TF-SCALAR-CARD", folder / "learning_rates.png", _IS_DRAWN)
            for name, content in (("model", "Parameters:"), ("annotations", "unfreeze")):
                browser.set_size(1280, 900)
                browser.open(f"{address}/#text&tagFilter={name}")
                browser.wait_for(lambda browser, content=content: content in browser.text())
                browser.run(_SHOW_TEXT)
                _save(browser, "TF-TEXT-LOADER", folder / f"{name}.png", "return document.body.innerHTML.length")
            browser.set_size(950, 900)
            page = Path(temporary, "report.html")
            page.write_text(_REPORT.format(_report()._repr_html_()), encoding="utf-8")
            browser.open(page.as_uri())
            _save(browser, "BODY", folder / "report.png", "return document.body.innerHTML.length")


def _report() -> TrainerReport:
    """Return the report that the first block of its page prints."""
    printed: list[TrainerReport] = []
    exec(scripts(REPORT_PAGE)[0][0].text, {"print": printed.append})
    return printed[0]


def _save(browser: Browser, card: str, path: Path, still: str) -> None:
    """Save the page as far as its first card goes."""
    _wait_until_still(browser, still)
    width, bottom = browser.run("return innerWidth"), browser.run(_CARD_BOTTOM.format(card))
    browser.set_size(width, bottom)
    _wait_until_still(browser, still)
    browser.screenshot(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
