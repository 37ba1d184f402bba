"""The Chinese pages: the code of the English ones. And links of Markdown files that are not on the site."""

import re
from pathlib import Path

import pytest

from tests.e2e.pages import blocks

ROOT = Path(__file__).parents[2]
TRANSLATED = {
    ROOT / "README.zh-CN.md": ROOT / "README.md",
    **{page: ROOT / "docs" / page.name for page in (ROOT / "docs" / "zh").glob("*.md")},
}


@pytest.mark.parametrize("page", TRANSLATED, ids=[page.name for page in TRANSLATED])
def test_code_and_output_are_those_of_the_english_page(page: Path) -> None:
    """Every block is the same, except for its title, and stands beside the same one; the English one is run."""
    code, original = (
        [(block.language, block.text, block.grid, block.is_mistake) for block in blocks(each)]
        for each in (page, TRANSLATED[page])
    )
    assert code == original


def test_links_of_files_outside_the_site_lead_somewhere() -> None:
    """Each relative link, picture and heading exists; `mkdocs build --strict` checks those within the site."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "benchmarks").glob("*.md")]
    links = [
        f"{page.parent}/{link}" for page in pages for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text())
    ]
    assert len(links) > 30
    assert [link for link in links if not _leads_somewhere(*link.split("#"))] == []


def _leads_somewhere(path: str, anchor: str = "") -> bool:
    if not anchor:
        return Path(path).exists()
    headings = re.findall(r"^#+ (.+)$", Path(path).read_text(), re.M)
    return anchor in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_readme_begins_with_the_link_to_the_chinese_one() -> None:
    """The first line of either README leads to the other."""
    first = [path.read_text().splitlines()[0] for path in (ROOT / "README.md", ROOT / "README.zh-CN.md")]
    assert "(README.zh-CN.md)" in first[0]
    assert "(README.md)" in first[1]
