"""The page about other packages: a section runs where its package is installed; `make test-loggers` installs three."""

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.pages import scripts

FIRST, *SECTIONS = [block for block, _ in scripts(Path(__file__).parents[2] / "docs" / "other-packages.md")]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda block: block.text.split()[1].partition(".")[0])
def test_a_section_runs(section, tmp_path: Path) -> None:
    """After the page's first block, in a process of its own, without a server."""
    imported, *_ = ast.parse(section.text).body
    name = (imported.module if isinstance(imported, ast.ImportFrom) else imported.names[0].name).partition(".")[0]
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    script = tmp_path / "train.py"
    script.write_text(FIRST.text + section.text)
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, "CLEARML_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
