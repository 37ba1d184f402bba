"""The site's pages: their code runs as shown, and the API pages have everything that is public."""

import re
import shlex
from pathlib import Path

import pytest
from ignite_launch.arguments import parse
from ignite_launch.errors import LaunchError
from ignite_launch.gpus import Gpu, Inventory
from ignite_launch.plan import Machine, make_plan

import ignite_tips
from tests.e2e.pages import Block, blocks, run_in_one_process, run_in_two_processes, scripts

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if page.parent.name != "zh")  # the same code
SCRIPTS = {page: scripts(page) for page in PAGES}
WITH_CODE = [page for page in PAGES if any(not block.is_script for block, _ in SCRIPTS[page])]
WITH_CODE.remove(DOCS / "other-packages.md")  # test_other_packages
TITLED = [(block, shown) for page in PAGES for block, shown in SCRIPTS[page] if block.is_script]

TWO_GPUS = Machine(Inventory(tuple(Gpu(index, f"GPU-{index}", "L4", 8, 8, 0) for index in (0, 1))), {}, 2, "python")


def _check_output(printed: str, shown: Block | None, where: str) -> None:
    if shown is not None:
        assert printed.rstrip() == shown.text.rstrip(), where
    else:
        assert printed == "", f"{where}: its output is not shown"


def test_pages_have_code() -> None:
    """The pattern still finds the code, and no block uses another name for the language."""
    assert len(WITH_CODE) >= 9
    assert TITLED
    languages = {block.language for page in PAGES for block in blocks(page)}
    assert languages <= {"python", "text", "console"}


@pytest.mark.parametrize("page", WITH_CODE, ids=[str(page.relative_to(DOCS)) for page in WITH_CODE])
def test_a_pages_code_runs_in_order(page: Path, tmp_path: Path) -> None:
    """In one process, in an empty folder, with warnings as errors; each block's output is the one shown below it."""
    code = [(block, shown) for block, shown in SCRIPTS[page] if not block.is_script]
    run = run_in_one_process(page, [block for block, _ in code], tmp_path)
    assert not run.error, run.error
    for (block, shown), printed in zip(code, run.outputs, strict=True):
        _check_output(printed, shown, f"{page.name}:{block.line}")


@pytest.mark.distributed
@pytest.mark.parametrize(("script", "shown"), TITLED, ids=[block.title for block, _ in TITLED])
def test_a_whole_script_runs_in_two_processes(script: Block, shown: Block | None, tmp_path: Path) -> None:
    """Started as by a launcher, rank 0 prints what is shown, and rank 1 prints nothing."""
    first, second = run_in_two_processes(script, tmp_path)
    assert not first.error + second.error, first.error + second.error
    _check_output(first.outputs[0], shown, script.title)
    assert second.outputs == [""]


def test_gpus_of_the_page_for_loops_are_chosen_or_refused() -> None:
    """On two GPUs, the launcher takes what its commands on the page say, and refuses what torch reads otherwise."""
    listed = blocks(DOCS / "from-your-loop.md")
    commands = [block.text.removeprefix("$ ignite-launch ") for block in listed if block.language == "console"]
    assert [make_plan(parse(shlex.split(command)).options, TWO_GPUS).gpus for command in commands] == [("0", "1")] * 2
    (read,) = [block.text for block in listed if "is GPU [" in block.text]
    for line in read.splitlines():
        gpus, is_read = re.fullmatch(r"(.+) is GPU \[(.*)\]", line).groups()
        options = parse(["--gpus", gpus, "train.py"]).options
        if gpus == is_read.replace(" ", ""):
            assert make_plan(options, TWO_GPUS).gpus == tuple(gpus.split(","))
        else:
            with pytest.raises(LaunchError, match=f"^--gpus {gpus}"):
                make_plan(options, TWO_GPUS)


def test_every_public_name_is_in_the_api() -> None:
    """Each name in ``__all__`` is on one API page, and nothing else except the module of the events."""
    text = "".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    documented = re.findall(r"^::: ignite_tips\.(?:core\.)?(\w+)$", text, re.MULTILINE)
    assert sorted(documented) == sorted({*ignite_tips.__all__, "events"} - {"__version__"})


def test_each_row_of_the_comparison_has_its_test_and_each_cell_its_link() -> None:
    """Our column is held by a test for each row; another project's cell is a link, or says that nothing was found."""
    text = (DOCS / "compared.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if row[0] not in ("", "---")]
    tests = {row[0]: row[1].strip("`").split("::") for row in rows if len(row) == 2}
    assert [name for path, name in tests.values() if f"def {name}(" not in (DOCS.parent / path).read_text()] == []
    assert [row[0] for row in rows if len(row) == 8] == list(tests)
    cells = [cell for row in rows if len(row) > 2 for cell in row[1:]]
    assert len(cells) > 100
    assert [cell for cell in cells if cell != "\N{EN DASH}" and not re.search(r"\]\[\w-\w+\]|\]\(", cell)] == []


def test_every_picture_is_shown() -> None:
    """No picture is unused."""
    text = "".join(page.read_text() for page in [*PAGES, DOCS.parent / "README.md"])
    for picture in (DOCS / "images").iterdir():
        assert f"images/{picture.name}" in text
