"""Options, help and the documentation page."""

import re
import shlex
from pathlib import Path

import pytest
from ignite_launch.arguments import format_help, parse

from tests.ignite_launch.support import launch


def test_help_fits_a_screen(tmp_path: Path) -> None:
    """--help has at most 40 lines of at most 90 columns, in groups, with three examples."""
    lines = launch(tmp_path, "--help").out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 90
    assert sum(line.startswith("  ignite-launch ") for line in lines) == 3


@pytest.mark.parametrize("source", ["docs/launching.md", "--help"])
def test_every_command_that_is_shown_is_valid(source: str) -> None:
    """The parser accepts each command line of the page and of the help."""
    text = format_help() if source == "--help" else (Path(__file__).parents[2] / source).read_text()
    pattern = r"^  ignite-launch (.+)" if source == "--help" else r"^\w*\$ ignite-launch (.+)"
    commands = re.findall(pattern, text, re.MULTILINE)
    assert len(commands) >= 3
    for command in commands:
        request = parse(shlex.split(command, comments=True))
        assert request.options is not None or request.list_gpus


def test_the_page_names_every_option() -> None:
    """Every option of the help is on the page on launching."""
    page = (Path(__file__).parents[2] / "docs" / "launching.md").read_text()
    options = re.findall(r"^  (?:-h, )?(--?[a-z-]+)", format_help(), re.MULTILINE)
    assert len(options) == 14
    for option in options:
        assert option in page
