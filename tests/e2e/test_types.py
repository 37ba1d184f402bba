"""The code in README and docs as pyright sees it, with the package's own types. `make check` shows it to mypy."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import needs_max_iters
from tools.snippets import write_snippets

ROOT = Path(__file__).parents[2]


@needs_max_iters  # the types of older versions lack what Ignite and torch themselves take
def test_documented_code_passes_pyright(tmp_path: Path) -> None:
    """By basedpyright, whose wheel needs no network when it runs."""
    pytest.importorskip("basedpyright")
    write_snippets(tmp_path)
    assert {path.name.split("_")[0] for path in tmp_path.iterdir()} == {"README", "docs"}
    (tmp_path / "pyrightconfig.json").write_text(f'{{"extraPaths": ["{ROOT}"], "typeCheckingMode": "standard"}}')
    options = ["--project", tmp_path, "--pythonpath", sys.executable, "--level", "error"]
    done = subprocess.run([sys.executable, "-m", "basedpyright", *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 errors" in done.stdout
