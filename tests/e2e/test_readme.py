"""README's code runs as shown."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import run_script

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_readme_has_code() -> None:
    """The pattern still finds the code."""
    assert len(BLOCKS) >= 1


@pytest.mark.parametrize("code", BLOCKS, ids=[f"block {index}" for index in range(len(BLOCKS))])
def test_code_runs_as_a_script(code: str, tmp_path: Path) -> None:
    """Each block is a whole script: it runs in an empty folder, with warnings as errors."""
    script = tmp_path / "script.py"
    script.write_text(f"import warnings\nwarnings.simplefilter('error')\n{code}")
    (ended,) = run_script(script, folder=tmp_path)
    assert ended.code == 0, ended.err
    assert list(tmp_path.glob("runs/*/events.*"))


def test_imports_warn_of_nothing() -> None:
    """In a new interpreter with warnings as errors, but for torch's own when Ignite imports its checkpoints."""
    names = {line for block in BLOCKS for line in block.splitlines() if line.startswith(("import ", "from "))}
    ignore = "ignore:`torch.jit:DeprecationWarning"
    command = [sys.executable, "-W", "error", "-W", ignore, "-c", "\n".join(sorted(names))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
