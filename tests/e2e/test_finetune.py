"""The example of fine-tuning, run as a user would, in one process and in two."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "examples" / "finetune.py")
TWO = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
SHORT = ["--pretrain-epochs", "4", "--every", "3"]
ROW = re.compile(r"^ *(\d+) to +(\d+) +([\d.]+)% +([\d.]+) +[\d.]+ ms +([\d.]+) +[\d.]+ ms$", re.MULTILINE)


@pytest.mark.distributed
@pytest.mark.parametrize("launcher", [[sys.executable], TWO], ids=["one process", "two processes"])
def test_fine_tuning_learns_faster_than_from_scratch(launcher: list[str]) -> None:
    """Stage after stage trains, each phase is printed, and the pre-trained network is ahead after the first of them."""
    done = subprocess.run(
        [*launcher, SCRIPT, *SHORT],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    rows = ROW.findall(done.stdout)
    assert [(first, last) for first, last, *_ in rows] == [("1", "3"), ("4", "6"), ("7", "9"), ("10", "12")]
    assert [share for _, _, share, *_ in rows] == ["15.4", "71.0", "98.9", "100.0"]
    tuned, afresh = ([float(row[column]) for row in rows] for column in (3, 4))
    assert tuned[0] > afresh[0]
    assert tuned[-1] > 0.9
    assert re.search(r"^stem\.0\.weight +16 x 1 x 3 x 3 +stem +\S+ +yes$", done.stdout, re.MULTILINE)
    assert re.search(r"^head\.weight +5 x 512 +rest +0\.003$", done.stdout, re.MULTILINE)
