"""Bad input to the library: wrong calls, and the exact sentence of each error."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.bad_input.scene import Scene

_TABLE = Path(__file__).with_name("bad_input") / "calls.txt"


@dataclass(frozen=True)
class Row:
    """One wrong call: what is done before it, the call, the class of the error, and its sentence."""

    given: str
    call: str
    error: str
    sentence: str

    def __str__(self) -> str:
        return " ".join(f"{self.given} {self.call}".split())


def _read_table() -> list[Row]:
    """Read pairs of lines, the call and its error, after an optional line with what is given."""
    rows, given, call = [], "", ""
    for line in _TABLE.read_text().splitlines():
        if line.startswith("    "):
            error, _, sentence = line.strip().partition(": ")
            rows.append(Row(given, call, error, sentence))
            given = call = ""
        elif line.startswith("given "):
            given = line.removeprefix("given ")
        elif line and not line.startswith("#"):
            call = line
    return rows


ROWS = _read_table()


@pytest.mark.filterwarnings("ignore")  # torch and Ignite warn about the wrong calls
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_wrong_call_gets_its_sentence_and_changes_nothing(row: Row, tmp_path: Path) -> None:
    """Each gets its sentence from the table, and changes no engine, optimizer, state or file."""
    scene = Scene(tmp_path)
    try:
        scene.make(row.given + row.call)
        scene.run(row.given)
        before = scene.traces()
        with pytest.raises((TypeError, ValueError, RuntimeError), match=r"\w") as caught:
            scene.run(row.call)
        assert type(caught.value).__name__ == row.error
        sentence = str(caught.value).replace(str(tmp_path), "{folder}")
        sentence = re.sub(r"events\.out\.tfevents\.[\w.-]+", "{event file}", sentence)
        ours, is_continued, _ = row.sentence.partition("{...}")
        assert (sentence[: len(ours)] if is_continued else sentence) == ours
        if row.call.startswith("trainer.run"):  # known only at run time: then in the first epoch
            assert scene.names["trainer"].state.epoch <= 1
        else:
            assert scene.traces() == before
    finally:
        scene.close()


def test_rows_are_unique() -> None:
    """The table has at least 120 rows, and each row is a different call."""
    assert len(ROWS) >= 120
    assert len({str(row) for row in ROWS}) == len(ROWS)


def test_every_sentence_has_the_common_form() -> None:
    """One line, of one of three classes, that says what must be or cannot be, without an object's address."""
    for row in ROWS:
        assert row.error in ("TypeError", "ValueError", "RuntimeError"), row
        assert re.search(r" (must|needs|matches no|means|takes|is|has|cannot) ", row.sentence), row
        assert not re.search(r"0x[0-9a-f]{6}|Traceback| object at ", row.sentence), row
        assert len(row.sentence) < 500, row
