"""Log learning rates, and other options of param groups, by group."""

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Self

from ignite.engine import Engine, Events
from ignite.handlers import TensorboardLogger
from ignite.handlers.base_logger import BaseHandler, BaseLogger
from torch.optim import Optimizer

from ignite_tips._checks import check_callable, check_instance
from ignite_tips.core.conflicts import add_checked_role
from ignite_tips.core.events import OptimizerEvents, check_events, check_optimizer, current_step, is_optimizer_event
from ignite_tips.core.handler import Handler
from ignite_tips.core.missing_updates import describe_no_update, warn_after_first_epoch
from ignite_tips.core.roles import WritesNames
from ignite_tips.core.wiring import Attachment, observes_only
from ignite_tips.tensorboard.group_options import GroupOptions
from ignite_tips.tensorboard.scalar_writer import ScalarWriter
from ignite_tips.tensorboard.summary_writer import add_chart

__all__ = ["LearningRateLogger"]


class LearningRateLogger(Handler, BaseHandler):
    """Writes each param group's learning rate under the group's name, with all groups in one TensorBoard chart.

    Acts on STEP_STARTED, after all other handlers of that event: it writes the learning rate that the update uses,
    whatever the order of attachment, and writes nothing for an update that is skipped.

    Another event may be given; its counter (update, iteration or epoch) is the x axis. The learning rate written is
    that of the next update for an event named ``..._STARTED``, and that of the latest update for any other event. A
    group whose parameters are all frozen is not written; its curve starts when it is unfrozen. Only rank 0 writes.

    In other loggers than TensorBoard, characters that some of them refuse are written as "_". WandB's global step,
    which must not fall, is the iteration; the event's counter is a metric there, such as ``optimizer_step``, and the x
    axis.

    Args:
        optimizer: the optimizer whose groups are logged, including those added later; ``"name"`` in a group names it.
        param_names: the option or options to log: numbers, or tuples of numbers such as Adam's ``betas``.
        tag: a prefix of the names, not empty, to tell several optimizers apart: ``generator/lr/head``.
        run_per_group: True writes each group to a TensorBoard run of its own, in the folder of the group's name within
            the run's. The Scalars tab then draws one chart for each option, ``lr``, with a color for each group; it has
            a chart for each group otherwise. Other loggers ignore it.
        only_changes: True writes only changes, each as two points, so lines stay level between them.
        global_step_transform: ``(engine, event) -> int`` for another x axis than the event's.

    Raises:
        TypeError: if an argument has the wrong type, or an option is not a number.
        ValueError: if a group lacks an option, or two groups have the same name.

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
        run_per_group: bool = False,
        only_changes: bool = False,
        global_step_transform: Callable[[Engine, Any], int] | None = None,
    ) -> None:
        self._options = GroupOptions(optimizer, param_names, tag)
        check_instance("run_per_group", run_per_group, bool, "True or False")
        check_instance("only_changes", only_changes, bool, "True or False")
        if global_step_transform is not None:
            check_callable("global_step_transform", global_step_transform, "a function of engine and event, or None")
        self._is_counter_needed = global_step_transform is None
        self._optimizer = optimizer
        self._category = tag or "optimizer"
        self._run_per_group = run_per_group
        self._only_changes = only_changes
        self._global_step_transform = global_step_transform or _count_of_event
        self._attachment = Attachment(type(self).__name__)
        self._scalars: ScalarWriter | None = None
        self._in_use: dict[str, float] | None = None  # the values in the latest update
        self._due: Callable[[], None] | None = None  # writes at the next update

    def attach(
        self, trainer: Engine, logger: BaseLogger | None = None, event: Any = OptimizerEvents.STEP_STARTED
    ) -> Self:
        """Log to ``logger`` at ``event``, or at each in a list of events.

        Without a logger the values go to ``trainer.state.metrics``, where any Ignite logger finds them. After the first
        epoch it warns if the optimizer has parameters to train but was not stepped. If a TensorBoard logger is closed
        after a run, the next run is not logged there.

        Raises:
            TypeError: if an argument has the wrong type, or the optimizer computes its gradients several times in one
                update, as LBFGS does.
            ValueError: if the trainer does not know an event, the event has no counter for the x axis, or another
                LearningRateLogger of the trainer already writes one of the names to ``logger``.
        """
        members = check_events("event", event, trainer)
        check_optimizer(self._optimizer, "attach this to an Ignite event with tb_logger.attach(trainer, this, event)")
        for member in members:
            if self._is_counter_needed and not is_optimizer_event(member) and member not in trainer.state.event_to_attr:
                raise ValueError(
                    f"event must have a counter for the x axis, got {member.name}; pass global_step_transform, or "
                    "use an event of updates, iterations or epochs"
                )
        scalars = self._scalar_writer(logger)
        with self._attachment.renew(self):
            role = WritesNames(self, logger, self._options.names, event)
            add_checked_role(self._attachment, trainer, role)
            for member in members:
                handler = observes_only(partial(self._handler_for(member), scalars=scalars, event=member))
                self._attachment.add_step_handler(trainer, self._optimizer, member, handler)
            if any(member != OptimizerEvents.STEP_STARTED for member in members):
                handler = observes_only(self._on_update)
                self._attachment.add_step_handler(trainer, self._optimizer, OptimizerEvents.STEP_STARTED, handler)
            warn_after_first_epoch(self._attachment, trainer, self._describe_no_update)
            for ending in (Events.COMPLETED, Events.TERMINATE) if self._only_changes else ():
                self._attachment.add_handler(trainer, ending, lambda engine: scalars.flush())
        self._add_charts(logger)
        self._scalars, self._in_use, self._due = scalars, None, None
        return self

    def detach(self) -> None:
        """Stop logging."""
        self._attachment.clear()
        self._scalars, self._in_use, self._due = None, None, None

    def __call__(  # type: ignore[override]  # the one handler that Ignite may call, as a log handler
        self, engine: Engine, logger: BaseLogger, event_name: Any
    ) -> None:
        """Log the current learning rates, as an Ignite log handler: ``tb_logger.attach(trainer, this, event)``.

        At STEP_STARTED these are the learning rates that the update uses, as after ``attach``.
        """
        scalars = self._scalars
        if scalars is None or scalars.logger is not logger:
            self._scalars = scalars = self._scalar_writer(logger)
            self._add_charts(logger)
        if not is_optimizer_event(event_name):
            scalars.write(engine, event_name, self._global_step_transform(engine, event_name), self._options.read())
        elif current_step(engine).optimizer is self._optimizer:
            self._in_use = self._options.read()
            self._handler_for(event_name)(engine, scalars, event_name)

    def _scalar_writer(self, logger: BaseLogger | None) -> ScalarWriter:
        places = (lambda tag: self._options.places[tag]) if self._run_per_group else None
        return ScalarWriter(
            logger, only_changes=self._only_changes, has_own_axis=self._is_counter_needed, places=places
        )

    def _describe_no_update(self, engine: Engine) -> str | None:
        consequence = ", so there is no learning rate in use to log yet"
        sentence = describe_no_update(engine, self._optimizer, "log", consequence)
        return None if sentence is None else f"LearningRateLogger found no update of its {sentence}"

    def _handler_for(self, event: Any) -> Callable[..., None]:
        return self._on_step_started if event == OptimizerEvents.STEP_STARTED else self._on_event

    def _on_step_started(self, engine: Engine, scalars: ScalarWriter, event: Any) -> None:
        step = self._global_step_transform(engine, event)
        current_step(engine).before_update(lambda: scalars.write(engine, event, step, self._options.read()))

    def _on_event(self, engine: Engine, scalars: ScalarWriter, event: Any) -> None:
        step = self._global_step_transform(engine, event)
        if event.name.endswith("_STARTED"):
            self._due = lambda: scalars.write(engine, event, step, self._options.read())
        elif self._in_use is not None:
            scalars.write(engine, event, step, self._in_use)

    def _on_update(self, engine: Engine) -> None:
        current_step(engine).before_update(self._read_and_write_due)

    def _read_and_write_due(self) -> None:
        self._in_use = self._options.read()
        due, self._due = self._due, None
        if due is not None:
            due()

    def _add_charts(self, logger: BaseLogger | None) -> None:
        if isinstance(logger, TensorboardLogger):
            for option, prefix in self._options.prefixes.items():
                pattern = re.escape(prefix[:-1]) + ("(/[0-9]+)?$" if self._run_per_group else "/")
                add_chart(logger.writer, self._category, option, ["^" + pattern])


def _count_of_event(engine: Engine, event: Any) -> int:
    return engine.state.get_event_attrib_value(event)
