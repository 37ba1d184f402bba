"""Tables of figures, as data for the picture and as Markdown for a reader."""

import json
from dataclasses import asdict, dataclass, field
from math import isnan
from typing import Any

from benchmarks.timing import Spread

__all__ = ["Bar", "Table", "dumps", "loads"]


@dataclass(frozen=True)
class Bar:
    """The maximum for a figure of the same row."""

    most: float
    value: float

    @property
    def is_met(self) -> bool:
        """Whether the figure is within the bar."""
        return self.value <= self.most


Cell = str | int | float | Spread | Bar | None


@dataclass
class Table:
    """Rows under named columns, with a caption and a note.

    Attributes:
        name: unique among the tables of a benchmark.
        columns: each column's name, and the format of its numbers.
        caption: what is compared, shown above the table.
        note: how it was measured, shown below the table.
    """

    name: str
    columns: dict[str, str]
    caption: str = ""
    note: str = ""
    rows: list[list[Cell]] = field(default_factory=list)

    def add(self, *cells: Cell) -> None:
        """Add a row, one cell per column."""
        if len(cells) != len(self.columns):
            raise ValueError(f"a row must have {len(self.columns)} cells, got {len(cells)}: {cells}")
        self.rows.append(list(cells))

    def records(self, **wanted: Cell) -> list[dict[str, Any]]:
        """Return the rows that have the wanted cells, each as a dict by column."""
        records = [dict(zip(self.columns, row, strict=True)) for row in self.rows]
        return [record for record in records if all(record[name] == cell for name, cell in wanted.items())]

    def markdown(self) -> str:
        """Return the table with its caption and note."""
        lines = [f"| {' | '.join(self.columns)} |", "|" + "---|" * len(self.columns)]
        for row in self.rows:
            cells = (_text(cell, form) for cell, form in zip(row, self.columns.values(), strict=True))
            lines.append(f"| {' | '.join(cells)} |")
        return "\n\n".join(part for part in (self.caption, "\n".join(lines), self.note) if part)


def _text(cell: Cell, form: str) -> str:
    match cell:
        case None:
            return ""
        case Spread() if isnan(cell.middle):
            return "lost in noise"
        case Spread():
            return f"{cell.middle:{form}} ({cell.low:{form}} to {cell.high:{form}})"
        case Bar():
            return f"≤ {cell.most:g}: {'met' if cell.is_met else '**missed**'}"
        case str():
            return cell
        case _:
            return f"{cell:{form}}"


def dumps(value: Any) -> str:
    """Return tables, in any lists and dicts, as JSON."""
    return json.dumps(value, default=asdict, indent=1) + "\n"


def loads(text: str) -> Any:
    """Return what ``dumps`` was given."""
    return json.loads(text, object_hook=_decoded)


def _decoded(record: dict[str, Any]) -> Any:
    for kind in (Spread, Bar, Table):
        if set(record) == set(kind.__dataclass_fields__):
            return kind(**record)
    return record
