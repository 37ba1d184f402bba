"""Per-group learning rates, and other options of param groups, in TensorBoard."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, EventsList
from ignite.handlers import TensorboardLogger
from torch.optim import Optimizer

from ignite_tips._checks import check_instance
from ignite_tips.attachment import Attachment
from ignite_tips.event_writing import ScalarRecord, add_chart, write_charts
from ignite_tips.events import OptimizerEvents, current_step, is_optimizer_event
from ignite_tips.param_groups import group_names

__all__ = ["LearningRateLogger"]


class LearningRateLogger:
    """Writes each param group's learning rate under the group's name, all groups in one chart of TensorBoard.

    It acts on STEP_STARTED and reads the rates when all other handlers of that event are done: what it writes is
    the rate in use for the update, whatever the order of attachment, and nothing for an update that is dropped.
    A group whose parameters are all frozen has no rate in use; its series begins when it is unfrozen.
    """

    def __init__(
        self, optimizer: Optimizer, *, param_names: str | Iterable[str] = ("lr",), tag: str | None = None
    ) -> None:
        check_instance("optimizer", optimizer, Optimizer, "a torch Optimizer")
        self._optimizer = optimizer
        self._param_names = (param_names,) if isinstance(param_names, str) else tuple(param_names)
        self._tag = tag
        self._attachment = Attachment()
        self._record = ScalarRecord([])
        self._read()

    def attach(self, trainer: Engine, tb_logger: TensorboardLogger, event: Any = OptimizerEvents.STEP_STARTED) -> None:
        """Write to ``tb_logger`` at ``event``, whose counter (update, iteration or epoch) is the x axis."""
        with self._attachment.renew():
            for member in event if isinstance(event, EventsList) else (event,):
                self._attachment.add_step_handler(
                    trainer, self._optimizer, member, partial(self._log, logger=tb_logger, event=member)
                )

    def detach(self) -> None:
        """Write no more."""
        self._attachment.clear()

    def __call__(self, engine: Engine, logger: TensorboardLogger, event_name: Any) -> None:
        """Write the rates, as one of Ignite's log handlers."""
        if not is_optimizer_event(event_name) or current_step(engine).optimizer is self._optimizer:
            self._log(engine, logger, event_name)

    def _log(self, engine: Engine, logger: TensorboardLogger, event: Any) -> None:
        if idist.get_rank() > 0:
            return
        step = engine.state.get_event_attrib_value(event)
        if event == OptimizerEvents.STEP_STARTED:
            current_step(engine).before_update(lambda: self._write(logger, step))
        else:
            self._write(logger, step)

    def _write(self, logger: TensorboardLogger, step: int) -> None:
        values = self._read()
        if self._record.tags != list(values):
            self._record = ScalarRecord(list(values))
        self._add_charts(logger.writer)
        self._record.write(logger.writer, list(values.values()), step)

    def _read(self) -> dict[str, float]:
        prefix = f"{self._tag}/" if self._tag else ""
        values: dict[str, float] = {}
        names = group_names(self._optimizer)
        for option in self._param_names:
            for name, group in zip(names, self._optimizer.param_groups, strict=True):
                if any(parameter.requires_grad for parameter in group["params"]):
                    values |= _numbers(f"{prefix}{option}/{name}", group, option)
        return values

    def _add_charts(self, writer: Any) -> None:
        prefix = f"{self._tag}/" if self._tag else ""
        for option in self._param_names:
            add_chart(writer, self._tag or "optimizer", option, [f"^{prefix}{option}/"])
        write_charts(writer)


def _numbers(tag: str, group: dict[str, Any], option: str) -> dict[str, float]:
    value = group[option]
    if isinstance(value, tuple | list):
        return {f"{tag}/{index}": float(member) for index, member in enumerate(value)}
    return {tag: float(value)}
