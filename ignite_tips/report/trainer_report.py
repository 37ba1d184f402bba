"""The report itself: plain data, as text, as HTML."""

import dataclasses
import html
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ignite_tips._tables import Column, Row, draw_html, line_width
from ignite_tips.core.findings import Finding, counted
from ignite_tips.report.optimizers import OptimizerReport

__all__ = ["HandlerFacts", "ScheduleReport", "TrainerReport"]

_GROUP_COLUMNS = (
    Column("group"),
    *(Column(title, is_number=True) for title in ("lr", "parameters", "frozen", "tensors")),
    Column("dtype"),
    Column("device"),
)
_UNTITLED = (Column("", wraps=True), Column("", wraps=True))
_TITLE = "font-weight: 600; padding: 1em 0 0.3em"
_GAP = "  "
_LEAST = 60  # characters of the last column
_UNKNOWN = "?"
_TIMES = ("start", "middle", "end")


class _Table(NamedTuple):
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class HandlerFacts:
    """A handler of this toolkit, by its repr, and what it knows about the run, by name."""

    handler: str
    facts: Mapping[str, str]


@dataclass(frozen=True)
class ScheduleReport:
    """The learning rates that a schedule gives in the run.

    Attributes:
        handler: the repr of the handler that steps it.
        groups: the names of the param groups.
        lrs: for each group, the learning rates of the first update, of one in the middle and of the last; None for one
            that is not known.
    """

    handler: str
    groups: tuple[str, ...]
    lrs: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class TrainerReport:
    """What a trainer will do, what it did, and what is very probably wrong; its text is for a terminal.

    A notebook shows it as HTML, with the findings first.

    Attributes:
        run: the lengths of the run, and how far it is: ``max_epochs``, ``max_iters``, ``epoch_length``, ``epoch``,
            ``iteration``; None where it is not known or not given.
        optimizers: the optimizers that the trainer's handlers know.
        events: for the trainer, and for other engines that its handlers act on, what is called at each event, in order.
        handlers: the handlers of this toolkit that know something about the run.
        schedules: the learning rates at the start, in the middle and at the end of the run.
        saved: what ``to_save`` has, by name; None if there is no ``to_save``.
        not_saved: what ``to_save`` should have too.
        findings: what is very probably wrong, each with its remedy.
    """

    run: Mapping[str, int | None]
    optimizers: tuple[OptimizerReport, ...]
    events: Mapping[str, Mapping[str, Sequence[str]]]
    handlers: tuple[HandlerFacts, ...]
    schedules: tuple[ScheduleReport, ...]
    saved: Mapping[str, str] | None
    not_saved: tuple[str, ...]
    findings: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as dicts, lists, strings and numbers, as JSON has them."""
        plain: dict[str, Any] = _plain(dataclasses.asdict(self))
        return plain

    def __str__(self) -> str:
        blocks = [f"Trainer: {self._describe_run()}"]
        blocks += ["\n".join([table.title, *_lines(table)]) for table in [*self._tables(), self._findings_table()]]
        return "\n\n".join(blocks)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        parts = [f"<div><b>Trainer</b>: {html.escape(self._describe_run())}</div>"]
        for title, columns, rows in [self._findings_table(), *self._tables()]:
            table = draw_html(columns, [*map(Row, rows)]) if rows else ""
            parts.append(f'<div style="{_TITLE}">{html.escape(title)}</div>{table}')
        return "\n".join(parts)

    def _findings_table(self) -> _Table:
        found = [(f"{number}.", finding.text) for number, finding in enumerate(self.findings, 1)]
        return _Table(f"Findings: {len(found) or 'none'}", _UNTITLED, found)

    def _describe_run(self) -> str:
        epochs, iterations, length = (self.run[name] for name in ("max_epochs", "max_iters", "epoch_length"))
        if epochs is not None:
            planned = counted(epochs, "epoch") + ("" if length is None else f" of {counted(length, 'iteration')}")
        elif iterations is not None:
            planned = counted(iterations, "iteration")
        else:
            planned = "max_epochs not known before the run, so schedules are not checked"
        done = f"epoch {self.run['epoch']}, iteration {self.run['iteration']}" if self.run["iteration"] else "not run"
        return f"{planned}; {done}"

    def _tables(self) -> Iterator[_Table]:
        """Yield all parts except the findings."""
        for optimizer in self.optimizers:
            updates = "updates not counted" if optimizer.updates is None else counted(optimizer.updates, "update")
            yield _Table(f"{optimizer.name}: {updates}", _GROUP_COLUMNS, _group_rows(optimizer))
        yield from map(_lr_table, self.schedules)
        for engine, events in self.events.items():
            called = [
                (event if index == 0 else "", name)
                for event, names in events.items()
                for index, name in enumerate(names)
            ]
            yield _Table(f"Handlers of the {engine}{', in order' if called else ': none'}", _UNTITLED, called)
        facts = [
            (each.handler, ", ".join(f"{name}: {fact}" for name, fact in each.facts.items())) for each in self.handlers
        ]
        if facts:
            yield _Table("What the handlers know", _UNTITLED, facts)
        if self.saved is not None:
            missing = [("(missing)", name) for name in self.not_saved]
            yield _Table("Saved in a checkpoint", _UNTITLED, [*self.saved.items(), *missing])


def _group_rows(optimizer: OptimizerReport) -> list[Sequence[str]]:
    return [
        (
            group.name,
            _number(group.lr),
            _UNKNOWN if group.parameters is None else f"{group.parameters:,}",
            _UNKNOWN if group.frozen is None else f"{group.frozen:.0%}",
            str(group.tensors),
            ", ".join(group.dtypes),
            ", ".join(group.devices),
        )
        for group in optimizer.groups
    ]


def _lr_table(schedule: ScheduleReport) -> _Table:
    """Return the table of one schedule. A time at which no learning rate is known has no column."""
    known = [index for index in range(len(_TIMES)) if any(lrs[index] is not None for lrs in schedule.lrs)]
    rows = [
        (name, *(_number(lrs[index]) for index in known))
        for name, lrs in zip(schedule.groups, schedule.lrs, strict=True)
    ]
    columns = [Column("group"), *(Column(_TIMES[index], is_number=True) for index in known)]
    return _Table(f"Learning rates of {schedule.handler}", columns, rows)


def _number(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:.4g}"


def _lines(table: _Table) -> list[str]:
    """Return the lines of a table. What is too long for the terminal goes on below, in the last column."""
    titles = [column.title for column in table.columns]
    rows = [titles, *table.rows] if any(titles) else table.rows
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    indent = sum(widths[:-1]) + len(_GAP) * len(widths)
    width = max(line_width(), indent + _LEAST)
    lines = []
    for row in rows:
        cells = [
            cell.rjust(least) if column.is_number else cell.ljust(least)
            for cell, least, column in zip(row, widths, table.columns, strict=True)
        ]
        line = _GAP.join(cells).rstrip()
        lines += textwrap.wrap(line, width, initial_indent=_GAP, subsequent_indent=" " * indent, break_on_hyphens=False)
    return lines


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(member) for key, member in value.items()}
    return [_plain(member) for member in value] if isinstance(value, tuple | list) else value
