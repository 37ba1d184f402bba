"""The site builds without a warning, and loads nothing from other hosts."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.browser import chromium, find_chromium

ROOT = Path(__file__).parents[2]
# What a browser loads by itself; links to click are not included.
LOADED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//|<link\b[^>]*\bhref=["']?(?:https?:)?//"""
)
# The titles of the pages that the search shows.
_FOUND = "return [...document.querySelectorAll('.md-search-result__article h1')].map(title => title.textContent.trim())"
# The code and drawings that are wider than their place.
_IS_CUT = (
    "return [...document.querySelectorAll('pre > code, article svg, body')]"
    ".filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent)"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    pytest.importorskip("mkdocs", reason="the group `docs` is not installed; `make docs` installs it")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_nothing_is_fetched(site: Path) -> None:
    """No page loads a font, script, style sheet or picture from another host."""
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    assert {page.name: LOADED.findall(page.read_text()) for page in pages if LOADED.search(page.read_text())} == {}


def test_examples_of_docstrings_are_code(site: Path) -> None:
    """Doctest prompts are shown as highlighted code, and each argument has its own description."""
    text = (site / "api" / "clipping.html").read_text()
    assert text.count('<span class="gp">&gt;&gt;&gt; </span>') > 10
    assert text.count("process_group") >= 5
    assert "Example:" not in text


def test_no_sentence_is_said_twice_of_errors(site: Path) -> None:
    """An entry for two errors is shown once, with both names."""
    text = re.sub(r"<[^>]+>", "", (site / "api" / "clipping.html").read_text())
    assert len(re.findall(r"TypeError \| ValueError\s+\N{EN DASH}", text)) >= 5


def test_descriptions_are_shown_whole(site: Path) -> None:
    """One that begins with > is no quotation, and one of a returned value is not split into its lines."""
    pages = {page.name: page.read_text() for page in (site / "api").glob("*.html")}
    assert [name for name, text in pages.items() if "<blockquote>" in text] == []
    assert pages["schedules.html"].count("For each group, by its") == 1
    assert "<p>values, or one more" not in pages["schedules.html"]


@pytest.mark.browser
@pytest.mark.skipif(find_chromium() is None, reason="needs chromium and chromedriver")
def test_search_works_on_the_disk(site: Path) -> None:
    """Without a server, in English and in Chinese."""
    with chromium() as browser:
        browser.open((site / "index.html").as_uri())
        browser.wait_for(lambda browser: browser.run("return document.forms.search.offsetWidth"))
        for words, page in (("clip gradients", "Gradient clipping"), ("梯度裁剪", "从你的 PyTorch 循环开始")):
            browser.run(
                f"const field = document.forms.search.query; field.focus(); field.value = '{words}';"
                "field.dispatchEvent(new KeyboardEvent('keyup'));"
            )
            browser.wait_for(lambda browser, page=page: page in browser.run(_FOUND))


@pytest.mark.browser
@pytest.mark.skipif(find_chromium() is None, reason="needs chromium and chromedriver")
def test_no_line_of_code_is_cut(site: Path) -> None:
    """Signatures, code side by side and the drawing fit a narrow window."""
    with chromium((500, 900)) as browser:
        for page in ("api/clipping", "from-your-loop", "how-it-works"):
            browser.open((site / f"{page}.html").as_uri())
            assert browser.run(_IS_CUT) == [], page
