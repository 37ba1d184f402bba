"""RESULTS.md: a summary, then every table."""

from benchmarks.tables import Bar, Table

__all__ = ["Results", "bars", "report"]

Results = dict[str, list[Table]]  # by benchmark

_OPENING = """# Benchmark results

Written by `make bench`. Each table compares its rows within one run, in alternation. Ratios carry over to other
machines, microseconds do not. A figure with two more in parentheses is a median with its quartiles.
"""


_PICTURES = {
    "training": "All tips on: the time of an update over the hand-written one",
    "tips": "Each tip alone: our cost over that of others",
    "growth": "How the cost of a tip grows",
}


def report(results: Results, machine: str) -> str:
    """Return the report as Markdown, with its pictures, each in ``results-NAME.png``."""
    parts = [_OPENING + f"\n{machine}."]
    parts += [f"## {words}\n\n![{words}](results-{name}.png)" for name, words in _PICTURES.items()]
    summary = bars(results)
    if summary.rows:
        parts += ["## Bars", summary.markdown()]
    for name, tables in results.items():
        parts += [f"## {name}", *(table.markdown() for table in tables)]
    return "\n\n".join(parts) + "\n"


def bars(results: Results) -> Table:
    """Return a table of all bars: how many are met, and which are missed."""
    table = Table("bars", {"benchmark": "", "bars met": "", "missed": ""})
    for name, tables in results.items():
        found = [(_label(record), cell) for one in tables for record in one.records() for cell in _bars_of(record)]
        if found:
            missed = [f"{label}: {bar.value:.2f}, not ≤ {bar.most:g}" for label, bar in found if not bar.is_met]
            table.add(name, f"{len(found) - len(missed)} of {len(found)}", "; ".join(missed) or "none")
    return table


def _bars_of(record: dict[str, object]) -> list[Bar]:
    return [cell for cell in record.values() if isinstance(cell, Bar)]


def _label(record: dict[str, object]) -> str:
    words = (cell if isinstance(cell, str) else f"{cell} {name}" for name, cell in record.items() if _names(cell))
    return ", ".join(words)


def _names(cell: object) -> bool:
    return isinstance(cell, str | int)
