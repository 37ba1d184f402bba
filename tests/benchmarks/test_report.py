"""The report, its picture, and the command that creates them."""

import re
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS, FOLDER, main, run, write
from benchmarks.peers import add_peers, peer_table
from benchmarks.picture import draw
from benchmarks.report import Results, bars, report
from benchmarks.tables import Bar, Table, loads
from benchmarks.timing import Spread

SUPPORT = {"heartbeats_picture", "loops", "parallel_loops", "peers", "picture", "report", "tables", "timing", "traffic"}
SUPPORT |= {"training_loops", "worker"}


def make_results() -> Results:
    columns = ("task", "AdamW", "loop", "µs an update", "÷ hand-written", "ours ÷ it", "bar")
    training = Table("loops", dict.fromkeys(columns, ""))
    for task in ("small", "large"):
        training.add(task, "fused", "hand-written PyTorch", 1.0, Spread(1, 1, 1), Spread(0.8, 0.7, 0.9), Bar(0.75, 0.8))
        training.add(task, "ordinary", "Ignite with our handlers", 0.8, Spread(0.8, 0.7, 0.9), None, None)
    peers = peer_table()
    add_peers(peers, "4 tensors", {"ours": [1.0, 1.1], "by hand": [2.0, 2.0], "Lightning": [3.0, 3.0]})
    growth = []
    for what in ("tensors", "groups"):
        table = Table(what, dict.fromkeys(("tip", what, "by hand, µs", "ours, µs", "ours ÷ by hand"), ""))
        for size in (1, 100):
            table.add("clipping", size, 2.0 * size, 1.0 * size, Spread(0.5, 0.5, 0.5))
            table.add("freezing", size, None, 1.0, None)
        growth.append(table)
    return {"training": [training], "clipping": [peers], "growth": growth}


def test_every_module_is_a_benchmark_or_known_support() -> None:
    """No benchmark is missing in the list."""
    modules = {
        path.stem for path in (Path(__file__).parents[2] / "benchmarks").glob("*.py") if not path.stem.startswith("_")
    }
    assert modules == set(BENCHMARKS) | SUPPORT


def test_bars_are_counted_and_the_missed_are_named() -> None:
    """The report begins with the missed bars, named by their rows."""
    table = bars(make_results())
    missed = (
        "small, fused, hand-written PyTorch: 0.80, not ≤ 0.75; large, fused, hand-written PyTorch: 0.80, not ≤ 0.75"
    )
    assert table.rows == [["training", "0 of 2", missed]]


def test_the_report_holds_machine_picture_and_every_table() -> None:
    """The report has every measurement."""
    results = make_results()
    text = report(results, "two cores")
    assert "\n\ntwo cores.\n\n## All tips on" in text
    for name, tables in results.items():
        assert f"\n\n## {name}\n\n" in text
        assert all(table.markdown() in text for table in tables)


def test_heartbeats_have_a_picture(tmp_path: Path) -> None:
    """Its file has the name that the table's caption shows, and it draws from the table alone."""
    results = loads((FOLDER / "results.json").read_text())["benchmarks"]
    write({"heartbeats": results["heartbeats"]}, "two cores", tmp_path)
    assert (tmp_path / "results-heartbeats.png").read_bytes().startswith(b"\x89PNG")
    assert "](results-heartbeats.png)" in (tmp_path / "RESULTS.md").read_text()


def test_results_are_written_as_data_report_and_picture(tmp_path: Path) -> None:
    """All files are written; the pictures have whatever benchmarks there are."""
    results = make_results()
    write(results, "two cores", tmp_path)
    assert loads((tmp_path / "results.json").read_text()) == {"machine": "two cores", "benchmarks": results}
    assert (tmp_path / "RESULTS.md").read_text() == report(results, "two cores")
    pictures = re.findall(r"!\[.+\]\((.+)\)", (tmp_path / "RESULTS.md").read_text())
    assert pictures == ["results-training.png", "results-tips.png", "results-growth.png"]
    assert all((tmp_path / picture).read_bytes().startswith(b"\x89PNG") for picture in pictures)
    write({"launch": []}, "two cores", tmp_path)


def test_the_committed_report_is_that_of_the_committed_data() -> None:
    """Its pictures can be drawn, too, from the rows that the benchmarks have."""
    data = loads((FOLDER / "results.json").read_text())
    assert (FOLDER / "RESULTS.md").read_text() == report(data["benchmarks"], data["machine"])
    assert set(draw(data["benchmarks"], data["machine"])) == {"training", "tips", "growth"}


def test_a_benchmark_runs_in_its_own_process() -> None:
    """Its tables are returned as data."""
    (table,) = run("ignite_schedulers", quick=True)
    assert table.records()[-1]["SchedulerStepper, PlateauStepper"] == 2


def test_an_unknown_benchmark_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The error lists the known benchmarks."""
    with pytest.raises(SystemExit):
        main(["clippin"])
    assert "there is no benchmark clippin; there are: training, clipping" in capsys.readouterr().err
