"""examples/char_rnn.py: the unclipped run is lost, the clipped one learns."""

import re
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "char_rnn.py"


def test_only_the_clipped_run_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A shorter run prints both networks' results, of which one learns, and draws them."""
    picture = tmp_path / "new" / "rnn.png"
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--updates", "60", "--picture", str(picture)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    told = capsys.readouterr().out
    assert re.search(r"^unclipped +first loss \d\.\d\d, last lost from update \d+ on$", told, re.MULTILINE)
    clipped = re.search(r"^clipped +first loss (\d\.\d\d), last (\d\.\d\d)$", told, re.MULTILINE)
    assert clipped is not None
    first, last = map(float, clipped.groups())
    assert last < 3.4 < 4.8 < first
    assert told.endswith(f"wrote {picture}\n")
    assert picture.read_bytes().startswith(b"\x89PNG")
