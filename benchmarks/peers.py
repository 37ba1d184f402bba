"""The table that each benchmark of a tip ends with: ours compared with hand-written code and with the best toolkit."""

from statistics import median

from benchmarks.tables import Table
from benchmarks.timing import Times, ratio

__all__ = ["add_peers", "peer_table"]

BY_HAND = "by hand"
OURS = "ours"


def peer_table() -> Table:
    """Return a table for ``add_peers``; the picture draws every table with this name."""
    columns = {"case": "", "ours ÷ by hand": ".2f", "best toolkit": "", "ours ÷ best toolkit": ".2f"}
    return Table("peers", columns, caption="At a glance:")


def add_peers(table: Table, case: str, times: Times) -> None:
    """Add a row from times or costs, per round, of ``"ours"``, optionally ``"by hand"``, and toolkits by name."""
    toolkits = {name: median(values) for name, values in times.items() if name not in (OURS, BY_HAND)}
    toolkits = {name: middle for name, middle in toolkits.items() if middle > 0}  # otherwise noise hides the cost
    best = min(toolkits, key=toolkits.__getitem__, default=None)
    table.add(
        case,
        ratio(times[OURS], times[BY_HAND]) if BY_HAND in times else None,
        best,
        ratio(times[OURS], times[best]) if best else None,
    )
