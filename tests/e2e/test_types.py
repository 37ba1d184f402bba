"""README's code as type checkers see it, with the package's own types."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.pages import scripts

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def snippets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with README's scripts."""
    folder: Path = tmp_path_factory.mktemp("snippets")
    for index, (block, _) in enumerate(scripts(ROOT / "README.md")):
        (folder / f"readme_{index}.py").write_text(block.text)
    return folder


@pytest.mark.timeout(300)  # without a cache it reads all of torch
def test_readme_passes_mypy_strict(snippets: Path) -> None:
    """Without an error, and with the types of the package, not as Any."""
    options = ["--strict", "--config-file=", "--follow-imports=silent", f"--cache-dir={ROOT / '.mypy_cache'}"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, snippets],
        cwd=ROOT,
        env={"MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_readme_passes_pyright(snippets: Path) -> None:
    """By basedpyright, whose wheel needs no network when it runs."""
    pytest.importorskip("basedpyright")
    (snippets / "pyrightconfig.json").write_text(f'{{"extraPaths": ["{ROOT}"], "typeCheckingMode": "standard"}}')
    options = ["--project", snippets, "--pythonpath", sys.executable, "--level", "error"]
    done = subprocess.run([sys.executable, "-m", "basedpyright", *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
