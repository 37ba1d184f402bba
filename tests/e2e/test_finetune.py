"""The fine-tuning example, run as a user would, in one process and in two."""

import re
from pathlib import Path

import pytest

from tests.support import run_script

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "examples" / "finetune.py")
SHORT = ["--pretrain-epochs", "4", "--every", "3"]
ROW = re.compile(r"^ *(\d+) to +(\d+) +([\d.]+)% +([\d.]+) +[\d.]+ ms +([\d.]+) +[\d.]+ ms$", re.MULTILINE)


@pytest.mark.distributed
@pytest.mark.parametrize("world_size", [1, 2])
def test_fine_tuning_learns_faster_than_from_scratch(world_size: int, tmp_path: Path) -> None:
    """The stages train in turn, each phase is printed, and the pre-trained network is ahead after the first."""
    done = run_script(SCRIPT, *SHORT, folder=tmp_path, world_size=world_size)[0]
    assert done.code == 0, done.err
    rows = ROW.findall(done.out)
    assert [(first, last) for first, last, *_ in rows] == [("1", "3"), ("4", "6"), ("7", "9"), ("10", "12")]
    assert [share for _, _, share, *_ in rows] == ["15.4", "71.0", "98.9", "100.0"]
    tuned, from_scratch = ([float(row[column]) for row in rows] for column in (3, 4))
    assert tuned[0] > from_scratch[0]
    assert tuned[-1] > 0.9
    assert re.search(r"^stem\.0\.weight +16.1.3.3 +stem +\S+ +yes$", done.out, re.MULTILINE)
    assert re.search(r"^head\.weight +5.512 +rest +0\.003$", done.out, re.MULTILINE)
