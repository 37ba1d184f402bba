"""Per-group learning rates, and other options of param groups, in TensorBoard."""

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Self

from ignite.engine import Engine, Events
from ignite.handlers import TensorboardLogger
from ignite.handlers.base_logger import BaseHandler, BaseLogger
from torch.optim import Optimizer

from ignite_tips._checks import check_callable, check_instance
from ignite_tips.core.conflicts import add_checked_role, never_stepped, warn_after_first_epoch
from ignite_tips.core.events import OptimizerEvents, check_events, check_optimizer, current_step, is_optimizer_event
from ignite_tips.core.wiring import Attachment, WritesNames, observes_only
from ignite_tips.tensorboard.group_options import GroupOptions
from ignite_tips.tensorboard.scalar_writer import ScalarWriter
from ignite_tips.tensorboard.summary_writer import add_chart

__all__ = ["LearningRateLogger"]


class LearningRateLogger(BaseHandler):
    """Writes each param group's learning rate under the group's name, all groups in one chart of TensorBoard.

    Acts on STEP_STARTED, and reads the rates when all other handlers of that event are done: what it writes is the
    rate in use for the update, whatever the order of attachment, and nothing for an update that does not happen.

    The event may be another; its counter (update, iteration or epoch) is the x axis. What is written is still the
    rate in use: of the next update for an event named ``..._STARTED``, of the latest for any other. A group whose
    parameters are all frozen has no rate in use; its series begins when it is unfrozen. Only rank 0 writes.

    Args:
        optimizer: whose groups are logged, also those that are added later; ``"name"`` in a group names it.
        param_names: the option or options to log: any that is a number, or several, as Adam's ``betas``.
        tag: not empty, stands before the names, to tell several optimizers apart: ``generator/lr/head``.
        only_changes: True writes only when a value changes, as two points, so that the line between them is level.
        global_step_transform: ``(engine, event) -> int``, another x axis than the event's.

    Raises:
        TypeError: if an argument has the wrong type, or an option is no number.
        ValueError: if a group lacks an option, or two groups have the same name.
        RuntimeError: if the TensorBoard writer is closed.

    State saved: none.

    Example:
        >>> from ignite.handlers import TensorboardLogger
        >>> head = nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD([{"params": head.parameters(), "name": "head"}], lr=0.1)
        >>> trainer = Engine(lambda engine, batch: optimizer.step())
        >>> _ = LearningRateLogger(optimizer).attach(trainer)  # or attach(trainer, tb_logger)
        >>> trainer.run(range(2)).metrics
        {'lr/head': 0.1}
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        param_names: str | Iterable[str] = ("lr",),
        tag: str | None = None,
        only_changes: bool = False,
        global_step_transform: Callable[[Engine, Any], int] | None = None,
    ) -> None:
        self._options = GroupOptions(optimizer, param_names, tag)
        check_instance("only_changes", only_changes, bool, "True or False")
        if global_step_transform is not None:
            check_callable("global_step_transform", global_step_transform, "a function of engine and event, or None")
        self._is_counter_needed = global_step_transform is None
        self._optimizer = optimizer
        self._category = tag or "optimizer"
        self._only_changes = only_changes
        self._global_step_transform = global_step_transform or _count_of_event
        self._attachment = Attachment()
        self._sink: ScalarWriter | None = None
        self._in_use: dict[str, float] | None = None  # the values of the latest update
        self._due: Callable[[], None] | None = None  # waits for the next update

    def attach(
        self, trainer: Engine, logger: BaseLogger | None = None, event: Any = OptimizerEvents.STEP_STARTED
    ) -> Self:
        """Log to ``logger`` at ``event``, or at each in a list of events.

        Without a logger the values go to ``trainer.state.metrics``, from where any of Ignite's loggers takes them.
        After the first epoch it warns if the optimizer, with parameters to train, made no update.

        Raises:
            TypeError: if an argument has the wrong type, or the optimizer computes its gradients several times in one
                update, as LBFGS.
            ValueError: if the trainer does not know an event, the event has no counter for the x axis, or another one
                attached to the trainer writes one of the names to ``logger`` already.
            RuntimeError: if the TensorBoard writer is closed.
        """
        members = check_events("event", event, trainer)
        check_optimizer(self._optimizer, "have tb_logger attach this as its log handler to an event of Ignite's own")
        for member in members:
            if self._is_counter_needed and not is_optimizer_event(member) and member not in trainer.state.event_to_attr:
                raise ValueError(
                    f"event must have a counter for the x axis, got {member.name}; give global_step_transform, or "
                    "an event of updates, iterations or epochs"
                )
        sink = ScalarWriter(logger, only_changes=self._only_changes)
        with self._attachment.renew():
            role = WritesNames(self, logger, self._options.names, event)
            add_checked_role(self._attachment, trainer, role)
            for member in members:
                handler = observes_only(partial(self._on_event, sink=sink, event=member))
                self._attachment.add_step_handler(trainer, self._optimizer, member, handler)
            if any(member != OptimizerEvents.STEP_STARTED for member in members):
                handler = observes_only(self._on_update)
                self._attachment.add_step_handler(trainer, self._optimizer, OptimizerEvents.STEP_STARTED, handler)
            warn_after_first_epoch(self._attachment, trainer, self._describe_no_update)
            for ending in (Events.COMPLETED, Events.TERMINATE) if self._only_changes else ():
                self._attachment.add_handler(trainer, ending, lambda engine: sink.flush())
        self._add_charts(logger)
        self._sink, self._in_use, self._due = sink, None, None
        return self

    def detach(self) -> None:
        """Log no more."""
        self._attachment.clear()
        self._sink, self._in_use, self._due = None, None, None

    def __call__(self, engine: Engine, logger: BaseLogger, event_name: Any) -> None:
        """Log the rates as they are now, as one of Ignite's log handlers: ``tb_logger.attach(trainer, this, event)``.

        In STEP_STARTED they are those in use for the update, as after ``attach``.
        """
        sink = self._sink
        if sink is None or sink.logger is not logger:
            self._sink = sink = ScalarWriter(logger, only_changes=self._only_changes)
            self._add_charts(logger)
        if not is_optimizer_event(event_name):
            sink.write(engine, event_name, self._global_step_transform(engine, event_name), self._options.read())
        elif current_step(engine).optimizer is self._optimizer:
            self._in_use = self._options.read()
            self._on_event(engine, sink, event_name)

    def _describe_no_update(self, engine: Engine) -> str | None:
        if not never_stepped(engine, self._optimizer):
            return None
        return (
            f"LearningRateLogger found no update of its {type(self._optimizer).__name__} in a whole epoch, and so no "
            "rate in use; log the optimizer that the trainer steps"
        )

    def _on_event(self, engine: Engine, sink: ScalarWriter, event: Any) -> None:
        step = self._global_step_transform(engine, event)
        if event == OptimizerEvents.STEP_STARTED:
            current_step(engine).before_update(lambda: sink.write(engine, event, step, self._options.read()))
        elif event.name.endswith("_STARTED"):
            self._due = lambda: sink.write(engine, event, step, self._options.read())
        elif self._in_use is not None:
            sink.write(engine, event, step, self._in_use)

    def _on_update(self, engine: Engine) -> None:
        current_step(engine).before_update(self._note_rates)

    def _note_rates(self) -> None:
        self._in_use = self._options.read()
        due, self._due = self._due, None
        if due is not None:
            due()

    def _add_charts(self, logger: BaseLogger | None) -> None:
        if isinstance(logger, TensorboardLogger):
            for option, prefix in self._options.prefixes.items():
                add_chart(logger.writer, self._category, option, ["^" + re.escape(prefix)])


def _count_of_event(engine: Engine, event: Any) -> int:
    return engine.state.get_event_attrib_value(event)
