"""Options, help and the documentation page."""

import re
import shlex
from importlib.metadata import version
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
        request = parse(shlex.split(command.partition(" > ")[0], comments=True))
        assert request.options is not None or request.show


def test_the_page_names_every_option() -> None:
    """Every option of the help is on the page on launching."""
    page = (Path(__file__).parents[2] / "docs" / "launching.md").read_text()
    options = re.findall(r"^  (?:-h, )?(--?[a-z-]+)", format_help(), re.MULTILINE)
    assert len(options) == 18
    for option in options:
        assert option in page


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        ("--nproc-per-node 2", "--nproc 2"),
        ("--nproc_per_node=2", "--nproc 2"),
        ("--nproc-per-node auto", ""),
        ("--nproc gpu", ""),
        ("--standalone --max_restarts 3", "--max-restarts 3"),
        ("--nnodes 2 --node_rank 1 --rdzv_endpoint a:1", "--nnodes 2 --node-rank 1 --rdzv-endpoint a:1"),
        ("--log_dir logs --module", "--log-dir logs -m"),
        ("--strategy DDP", "--strategy ddp"),
    ],
)
def test_torchruns_spellings_mean_the_same(words: str, ours: str) -> None:
    """What torchrun takes for the same thing is taken."""
    assert parse([*words.split(), "s.py", "--nproc_per_node"]) == parse([*ours.split(), "s.py", "--nproc_per_node"])


def test_options_after_the_script_are_told(tmp_path: Path) -> None:
    """The launcher says which of its options went to the script; the script gets them."""
    (tmp_path / "s.py").write_text("import sys; print(sys.argv[1:])")
    result = launch(tmp_path, "--nproc", "1", "s.py", "--nproc", "2", "--gpus=0", "-m")
    assert result.out == "['--nproc', '2', '--gpus=0', '-m']\n"
    told = "ignite-launch: {} goes to s.py; the launcher's own options stand before the script"
    assert result.err.splitlines()[:2] == [told.format("--nproc"), told.format("--gpus=0")]


def test_the_version_is_the_packages(tmp_path: Path) -> None:
    """--version prints the version of the installed package."""
    assert launch(tmp_path, "--version").out == f"ignite-launch {version('ignite-tips')}\n"
