"""Draw a table as text that fits into a line, or as HTML for a notebook."""

import shutil
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

__all__ = ["Column", "Row", "draw_html", "draw_text", "line_width", "show_lrs", "show_size"]

_NO_TERMINAL = (120, 24)
_LEAST_WIDTH = 60
_GAP = "  "
# Only inherited colors, so that a table suits light and dark pages. Jupyter's own style would center it.
_TABLE = "border-collapse: collapse; margin: 0; font-size: 0.9em; font-variant-numeric: tabular-nums"
_CELL = "padding: 0.2em 0.9em 0.2em 0.4em; vertical-align: top; white-space: {space}; text-align: {align}"
_HEAD = "border-bottom: 1px solid; font-weight: 600"
_FIRST = "font-family: monospace; padding-left: {indent}em"
_DIMMED = "opacity: 0.55"


class Column(NamedTuple):
    """A column's title, whether it has numbers, which end at the right, and whether HTML may break its lines."""

    title: str
    is_number: bool = False
    wraps: bool = False


class Row(NamedTuple):
    """A row's cells, how deep the first one is indented, and whether HTML shows the row paler."""

    cells: Sequence[str]
    depth: int = 0
    is_dimmed: bool = False


def line_width() -> int:
    """Return the width of the terminal in characters; 120 without one, and never less than 60."""
    return max(_LEAST_WIDTH, shutil.get_terminal_size(_NO_TERMINAL).columns)


def show_size(shape: Iterable[int]) -> str:
    """Return a size as text.

    Example:
        >>> show_size((64, 3)), show_size(())
        ('64×3', 'scalar')
    """
    return "\u00d7".join(map(str, shape)) or "scalar"


def show_lrs(lrs: Iterable[float], base_lrs: Iterable[float]) -> str:
    """Return learning rates as text, equal ones once; a base learning rate too where a schedule has changed it.

    Example:
        >>> show_lrs([0.1, 0.1, 0.01], [0.1, 0.1, 0.5])
        '0.1, 0.01 (base 0.5)'
    """
    pairs = zip(lrs, base_lrs, strict=True)
    return ", ".join(dict.fromkeys(f"{lr:g}" if lr == base else f"{lr:g} (base {base:g})" for lr, base in pairs))


def draw_text(columns: Sequence[Column], rows: Sequence[Row], width: int) -> list[str]:
    """Return the lines of the table, its titles first. What does not fit into ``width`` is cut in its middle."""
    titles = [column.title for column in columns]
    cells = [titles, *([_GAP * row.depth + row.cells[0], *row.cells[1:]] for row in rows)]
    widths = _fit([max(map(len, column)) for column in zip(*cells, strict=True)], [*map(len, titles)], width)
    lines = [map(_cell, line, widths, columns) for line in cells]
    return [_GAP.join(line).rstrip() for line in lines]


def draw_html(columns: Sequence[Column], rows: Sequence[Row], notes: Sequence[str] = ()) -> str:
    """Return the table as HTML, with notes below it; without a head if no column has a title."""
    head = "".join(_html_cell("th", column, column.title, _HEAD) for column in columns)
    head = f"<thead><tr>{head}</tr></thead>" if any(column.title for column in columns) else ""
    body = "".join(f"<tr>{_html_row(columns, row)}</tr>" for row in rows)
    below = "".join(f"<div>{escape(note)}</div>" for note in notes)
    table = f'<table style="{_TABLE}">{head}<tbody>{body}</tbody></table>'
    return f'<div style="overflow-x: auto">{table}</div>' + (
        f'<div style="font-size: 0.9em; padding-top: 0.4em">{below}</div>' if below else ""
    )


def _fit(widths: list[int], least: Sequence[int], width: int) -> list[int]:
    """Shrink the widest columns, to their titles at least, until all fit into ``width``."""
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - width
    while excess > 0 and widths != list(least):
        widest = max(range(len(widths)), key=lambda column: (widths[column] > least[column], widths[column]))
        widths[widest] -= 1
        excess -= 1
    return widths


def _cell(text: str, width: int, column: Column) -> str:
    if len(text) > width:
        end = (width - 1) // 2  # a name's end often says more than its middle
        text = text[: width - 1 - end] + "…" + text[len(text) - end :]
    return text.rjust(width) if column.is_number else text.ljust(width)


def _html_row(columns: Sequence[Column], row: Row) -> str:
    styles = [_FIRST.format(indent=f"{0.4 + 1.4 * row.depth:g}"), *[""] * (len(columns) - 1)]
    dimmed = _DIMMED if row.is_dimmed else ""
    cells = zip(columns, row.cells, styles, strict=True)
    return "".join(_html_cell("td", column, text, style, dimmed) for column, text, style in cells)


def _html_cell(tag: str, column: Column, text: str, *styles: str) -> str:
    align, space = "right" if column.is_number else "left", "normal" if column.wraps else "nowrap"
    style = "; ".join(filter(None, [_CELL.format(align=align, space=space), *styles]))
    return f'<{tag} style="{style}">{escape(text)}</{tag}>'
