"""The report itself: plain data, as text, as HTML."""

import dataclasses
import html
import itertools
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ignite_tips.core.findings import Finding
from ignite_tips.report.optimizers import OptimizerReport

__all__ = ["HandlerFacts", "ScheduleReport", "TrainerReport"]

_GROUP_TITLES = ("group", "lr", "parameters", "frozen", "tensors", "dtype", "device")
_GAP = "  "
_LEAST = 60  # characters of the last column
_NO_TERMINAL = (120, 24)
_TIMES = ("start", "middle", "end")
_NUMBERS = {"lr", "parameters", "frozen", "tensors", *_TIMES}  # titles of columns that end at the right
_Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]  # title, header and rows


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
        run: the lengths of the run, and how far it is: ``max_epochs``, ``epoch_length``, ``epoch``, ``iteration``.
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
        for title, header, rows in [*self._tables(), self._findings_table()]:
            blocks.append("\n".join([title, *_align(header, rows)]))
        return "\n\n".join(blocks)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        parts = [f"<p><b>Trainer</b>: {html.escape(self._describe_run())}</p>"]
        for title, header, rows in [self._findings_table(), *self._tables()]:
            lines = [_html_row("th", header, header), *(_html_row("td", header, row) for row in rows)]
            parts.append(f"<p><b>{html.escape(title)}</b></p><table>{''.join(lines)}</table>")
        return "\n".join(parts)

    def _findings_table(self) -> _Table:
        found = [(f"{number}.", finding.text) for number, finding in enumerate(self.findings, 1)]
        return f"Findings: {len(found) or 'none'}", (), found

    def _describe_run(self) -> str:
        epochs, length = self.run["max_epochs"], self.run["epoch_length"]
        planned = "length not known before the run" if epochs is None else f"{epochs} epochs"
        planned += "" if length is None else f" of {length} iterations"
        done = f"epoch {self.run['epoch']}, iteration {self.run['iteration']}" if self.run["iteration"] else "not run"
        return f"{planned}; {done}"

    def _tables(self) -> Iterator[_Table]:
        """Yield all parts except the findings."""
        for optimizer in self.optimizers:
            updates = "updates not counted" if optimizer.updates is None else f"{optimizer.updates} updates"
            yield f"{optimizer.name}: {updates}", _GROUP_TITLES, _group_rows(optimizer)
        for schedule in self.schedules:
            yield f"Learning rates of {schedule.handler}", *_lr_table(schedule)
        for engine, events in self.events.items():
            called = [
                (event if index == 0 else "", name)
                for event, names in events.items()
                for index, name in enumerate(names)
            ]
            yield f"Handlers of the {engine}{', in order' if called else ': none'}", (), called
        facts = [
            (each.handler, ", ".join(f"{name}: {fact}" for name, fact in each.facts.items())) for each in self.handlers
        ]
        if facts:
            yield "What the handlers know", (), facts
        if self.saved is not None:
            yield "Saved in a checkpoint", (), [*self.saved.items(), *(("(missing)", name) for name in self.not_saved)]


def _group_rows(optimizer: OptimizerReport) -> list[Sequence[str]]:
    return [
        (
            group.name,
            _number(group.lr),
            f"{group.parameters:,}",
            f"{group.frozen:.0%}",
            str(group.tensors),
            ", ".join(group.dtypes),
            ", ".join(group.devices),
        )
        for group in optimizer.groups
    ]


def _lr_table(schedule: ScheduleReport) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Return the header and rows. A time at which no learning rate is known has no column."""
    known = [index for index in range(len(_TIMES)) if any(lrs[index] is not None for lrs in schedule.lrs)]
    rows = [
        (name, *(_number(lrs[index]) for index in known))
        for name, lrs in zip(schedule.groups, schedule.lrs, strict=True)
    ]
    return ("group", *(_TIMES[index] for index in known)), rows


def _html_row(tag: str, header: Sequence[str], cells: Sequence[str]) -> str:
    titled = itertools.zip_longest(header, cells)  # some tables have no header
    shown = (
        f'<{tag} style="text-align: {"right" if title in _NUMBERS else "left"}">{html.escape(cell)}</{tag}>'
        for title, cell in titled
    )
    return f"<tr>{''.join(shown)}</tr>"


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.4g}"


def _align(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table. What is too long for the terminal goes on below, in the last column."""
    rows = [header, *rows] if header else rows
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    indent = sum(widths[:-1]) + len(_GAP) * len(widths)
    titles = header or [""] * len(widths)
    lines = [
        _GAP.join(
            cell.rjust(width) if title in _NUMBERS else cell.ljust(width)
            for title, cell, width in zip(titles, row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
    width = max(shutil.get_terminal_size(_NO_TERMINAL).columns, indent + _LEAST)
    return [
        wrapped
        for line in lines
        for wrapped in textwrap.wrap(
            line, width, initial_indent=_GAP, subsequent_indent=" " * indent, break_on_hyphens=False
        )
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(member) for key, member in value.items()}
    return [_plain(member) for member in value] if isinstance(value, tuple | list) else value
