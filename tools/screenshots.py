"""Take the screenshots for README and docs: ``python -m tools.screenshots docs/images``."""

import sys
import tempfile
from pathlib import Path

from ignite_tips import plot_runs
from tests.e2e.browser import Browser, chromium, tensorboard
from tests.e2e.demo_run import train

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
            _wait_until_still(browser, _IS_DRAWN)
            browser.screenshot(folder / "learning_rates.png")
            for name, content in (("model", "Parameters:"), ("annotations", "unfreeze")):
                browser.open(f"{address}/#text&tagFilter={name}")
                browser.wait_for(lambda browser, content=content: content in browser.text())
                _wait_until_still(browser, "return document.body.innerHTML.length")
                browser.screenshot(folder / f"{name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
