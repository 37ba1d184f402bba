"""Tables as data and as Markdown."""

import pytest

from benchmarks.peers import add_peers, peer_table
from benchmarks.tables import Bar, Table, dumps, loads
from benchmarks.timing import Spread


def make_table() -> Table:
    table = Table("speed", {"case": "", "µs": ",.1f", "ratio": ".2f", "bar": ""}, caption="What it takes.")
    table.add("small", 1234.56, Spread(0.5, 0.4, 0.6), Bar(0.75, 0.5))
    table.add("large", None, Spread(1.25, 1.0, 1.5), Bar(1.0, 1.25))
    return table


def test_a_table_is_markdown() -> None:
    """Numbers have their column's format, a spread its quartiles, and a bar says whether it is met."""
    assert make_table().markdown() == (
        "What it takes.\n\n"
        "| case | µs | ratio | bar |\n"
        "|---|---|---|---|\n"
        "| small | 1,234.6 | 0.50 (0.40 to 0.60) | ≤ 0.75: met |\n"
        "| large |  | 1.25 (1.00 to 1.50) | ≤ 1: **missed** |"
    )


def test_tables_are_unchanged_by_json() -> None:
    """Also spreads and bars, in any nesting of tables."""
    results = {"machine": "two cores", "benchmarks": {"speed": [make_table()]}}
    assert loads(dumps(results)) == results


def test_records_are_found_by_their_cells() -> None:
    """Rows are selected by the names of columns."""
    assert [record["µs"] for record in make_table().records(case="small")] == [1234.56]
    assert len(make_table().records()) == 2


def test_a_row_has_a_cell_for_each_column() -> None:
    """A row with another number of cells is refused."""
    with pytest.raises(ValueError, match="a row must have 4 cells, got 1"):
        make_table().add("small")


def test_the_best_toolkit_is_the_fastest_besides_ours_and_by_hand() -> None:
    """Ours is compared with both; a toolkit whose cost noise hides is not the best."""
    table = peer_table()
    times = {"ours": [2.0, 2.0], "by hand": [1.0, 1.0], "slow": [8.0, 8.0], "quick": [4.0, 4.0], "lost": [-1.0, 0.0]}
    add_peers(table, "case", times)
    add_peers(table, "alone", {"ours": [2.0, 2.0]})
    assert table.rows == [
        ["case", Spread(2.0, 2.0, 2.0), "quick", Spread(0.5, 0.5, 0.5)],
        ["alone", None, None, None],
    ]
