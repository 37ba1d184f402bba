"""README's code runs as shown."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_readme_has_code() -> None:
    """The pattern still finds the code."""
    assert len(BLOCKS) >= 1


@pytest.mark.parametrize("code", BLOCKS, ids=[f"block {index}" for index in range(len(BLOCKS))])
def test_code_runs_in_its_own_process(code: str, tmp_path: Path) -> None:
    """Each block is a whole script: it runs in an empty folder, with warnings as errors."""
    ignore = "ignore:`torch.jit:DeprecationWarning"  # torch's own, when Ignite imports its checkpoints
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", ignore, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("runs/*/events.*"))
