"""Write scalars to TensorBoard, to another Ignite logger, or to the engine's metrics."""

import re
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine
from ignite.handlers import ProgressBar, TensorboardLogger, WandBLogger
from ignite.handlers.base_logger import BaseLogger

from ignite_tips._checks import check_instance
from ignite_tips.core.ignite_internals import make_output_handler
from ignite_tips.tensorboard.summary_writer import ScalarRecord, write_charts

__all__ = ["ScalarWriter"]


class ScalarWriter:
    """Writes scalars that belong together: one record of a TensorBoard file, on rank 0.

    Args:
        logger: an Ignite logger; None writes to ``engine.state.metrics``, on every rank.
        has_own_axis: whether the steps are those of the event's counter. WandB has one axis for everything, which must
            not fall: there the steps are a metric of their own, and the axis is the iteration, as in Ignite's examples.
        places: for TensorBoard, the run within the run, and the tag there, of each tag; None writes to the run itself.
        only_changes: leave out values that equal the previous ones, except the last before a change: the curve is then
            drawn as steps, not as slopes between changes.

    Raises:
        TypeError: if ``logger`` is not an Ignite logger.
    """

    def __init__(
        self,
        logger: BaseLogger | None,
        *,
        only_changes: bool = False,
        has_own_axis: bool = True,
        places: Callable[[str], tuple[str, str]] | None = None,
    ) -> None:
        check_instance("logger", logger, (BaseLogger, type(None)), "one of Ignite's loggers")
        if isinstance(logger, ProgressBar):
            raise TypeError(
                "logger must store what it is given, got a ProgressBar; attach without a logger, and let the bar show "
                "the metrics: ProgressBar().attach(trainer, ['lr/...'])"
            )
        self.logger = logger
        self._only_changes = only_changes
        self._latest: dict[str, float] | None = None
        self._held: Callable[[], None] | None = None  # a write held back because its values equal the previous ones
        self._places = places
        self._tags: list[str] = []  # of the latest write
        self._record = ScalarRecord([])
        self._sub_runs: list[tuple[str, ScalarRecord, list[int]]] = []  # each with the indices of its values
        self._write_now: Callable[..., None] = self._write_output
        if isinstance(logger, TensorboardLogger):
            self._write_now = self._write_record
        elif isinstance(logger, WandBLogger) and has_own_axis:
            self._write_now = self._write_with_axis

    def write(self, engine: Engine, event: Any, step: int, values: dict[str, float]) -> None:
        """Write ``values``, by tag, at ``step``; ``event`` is the current event."""
        if self.logger is None:
            engine.state.metrics |= values
        elif self._is_rank_0:
            if self._only_changes and values == self._latest:
                self._held = partial(self._write_now, engine, event, step, values)
                return
            self.flush()
            self._latest = values
            self._write_now(engine, event, step, values)

    @cached_property
    def _is_rank_0(self) -> bool:  # asked at the first write, when the processes have met
        return idist.get_rank() == 0

    def flush(self) -> None:
        """Write the values held back last, if any."""
        held, self._held = self._held, None
        if held is not None:
            held()

    def _write_record(self, engine: Engine, event: Any, step: int, values: dict[str, float]) -> None:
        writer = self.logger.writer  # type: ignore[union-attr]  # used only with a TensorBoard logger
        tags, numbers = list(values), list(values.values())
        if self._tags != tags:
            self._tags = tags
            if self._places is None:
                self._record = ScalarRecord(tags)
            else:
                self._sub_runs = _sort_by_run(tags, self._places)
            write_charts(writer)
        if self._places is None:
            self._record.write(writer, numbers, step)
        for name, record, indices in self._sub_runs:
            record.write(writer, [numbers[index] for index in indices], step, name)

    def _write_output(self, engine: Engine, event: Any, step: int, values: dict[str, float]) -> None:
        # Every Ignite logger can make a handler that writes an engine's output by the logger's own rules. Give it ours.
        logger: Any = self.logger
        by_tag: dict[str, dict[str, float]] = {}
        for tag, value in zip(_portable(values), values.values(), strict=True):
            first, _, rest = tag.partition("/")
            by_tag.setdefault(first, {})[rest] = value
        for tag, output in by_tag.items():
            handler = make_output_handler(
                logger,
                tag=tag,
                output_transform=partial(_constant, output),
                global_step_transform=partial(_constant, step),
            )
            handler(engine, logger, event)

    def _write_with_axis(self, engine: Engine, event: Any, step: int, values: dict[str, float]) -> None:
        logger: Any = self.logger
        axis, names = engine.state.event_to_attr[event], _portable(values)
        if self._tags != names:
            self._tags = names
            for name in names:
                logger.define_metric(name, step_metric=axis)
        written = dict(zip(names, values.values(), strict=True))
        logger.log({**written, axis: step}, step=engine.state.iteration)


def _portable(names: Iterable[str]) -> list[str]:
    """Return different names with only the characters that every logger takes."""
    portable: list[str] = []
    for name in names:
        changed = re.sub(r"[^A-Za-z0-9_./ -]", "_", name)
        while changed in portable:
            changed += "_"
        portable.append(changed)
    return portable


def _sort_by_run(
    tags: list[str], places: Callable[[str], tuple[str, str]]
) -> list[tuple[str, ScalarRecord, list[int]]]:
    by_run: dict[str, list[int]] = {}
    for index, tag in enumerate(tags):
        by_run.setdefault(places(tag)[0], []).append(index)
    folders = [name.replace("/", "_") for name in _portable(by_run)]
    return [
        (folder, ScalarRecord([places(tags[index])[1] for index in indices]), indices)
        for folder, indices in zip(folders, by_run.values(), strict=True)
    ]


def _constant(value: Any, *_: Any) -> Any:
    return value
