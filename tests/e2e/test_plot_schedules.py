"""examples/plot_schedules.py draws its picture."""

import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "plot_schedules.py"


def test_draws_the_picture_of_the_docs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run as by a user, it writes a picture to the given path."""
    picture = tmp_path / "new" / "schedules.png"
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(picture)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert capsys.readouterr().out == f"wrote {picture}\n"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 50_000
