"""Roles: what attached handlers act on. The wiring keeps those of each engine.

A role holds weak references only: a discarded handler, optimizer or engine is not kept alive, and never counts as a
conflict.
"""

import weakref
from collections.abc import Callable, Mapping
from typing import Any

from ignite.engine import Engine, State
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ignite_tips.core.events import OptimizerEvents
from ignite_tips.core.findings import HandlerReport
from ignite_tips.core.ignite_internals import members_of

__all__ = ["ClipsGradients", "FreezesParameters", "Role", "SetsLearningRates", "WritesNames"]


class Role:
    """What an attached handler acts on, so that conflicts.py can find two that clash, and what it tells a report.

    Args:
        handler: the handler.
        events: the events at which it acts.
        engine: whose events these are, if not the trainer's.
        model: the model that it acts on, if it knows one.
        report: a method that returns what the handler knows about the trainer's run; see ``Role.report``.
        is_logger: whether the handler writes down what happens in the run.

    Attributes:
        handler: a weak reference to the handler.
        events: the names of the events at which it acts.
        engine: a weak reference to the engine of these events; None for the trainer.
        is_deferred: whether it acts after all handlers of its event.
        model: a weak reference to the model; None if it is not known.
        is_filtered: whether each of the events has a filter: it may then end before another handler begins.
        was_warned: whether a warning about one of its conflicts was given.
        was_run: whether a run of the trainer has started with it.
        joined_at: the iteration at which it was attached to a run under way; 0 if it was there from the start.
        trainer: a weak reference to the trainer, once the role is recorded.
    """

    trainer: "weakref.ref[Engine]"

    def __init__(
        self,
        handler: object,
        *events: Any,
        engine: Engine | None = None,
        model: nn.Module | None = None,
        report: Callable[[Engine, State], HandlerReport] | None = None,
        is_logger: bool = False,
    ) -> None:
        self.handler: weakref.ref[object] = weakref.ref(handler)
        self.engine = None if engine is None else weakref.ref(engine)
        self.model = None if model is None else weakref.ref(model)
        self._report = None if report is None else weakref.WeakMethod(report)
        # Names, not the events: a user's filter may hold the engine and would keep it alive.
        members = [member for event in events for member in members_of(event)]
        self.events = tuple(str(member.name) for member in members)
        self.is_filtered = all(getattr(member, "filter", None) is not None for member in members)
        self.is_deferred = False
        self.is_logger = is_logger
        self.was_warned = False
        self.was_run = False
        self.joined_at = 0

    @property
    def handler_name(self) -> str:
        """The class of the handler, for messages."""
        return type(self.handler()).__name__

    def metric_names(self) -> list[str]:
        """Return the names under which the handler leaves values in the trainer's metrics, at its events."""
        return []

    def report(self, trainer: Engine, plan: State) -> HandlerReport:
        """Return what the handler knows about the run of ``trainer``; ``plan`` has the lengths of the whole run."""
        method = None if self._report is None else self._report()
        return HandlerReport() if method is None else method(trainer, plan)


class ClipsGradients(Role):
    """Clips an optimizer's gradients to a threshold, and writes the norm and the factor as metrics."""

    def __init__(
        self, handler: object, optimizer: Optimizer, *, metric: str, factor: str, threshold: str, **known: Any
    ) -> None:
        super().__init__(handler, OptimizerEvents.STEP_STARTED, **known)
        self.optimizer = weakref.ref(optimizer)
        self.metric = metric
        self.factor = factor
        self.threshold = threshold

    def metric_names(self) -> list[str]:
        """Return the names of the norm and of the factor."""
        return [self.metric, self.factor]


class SetsLearningRates(Role):
    """Steps a scheduler, which sets an optimizer's learning rates.

    Attributes:
        closed_form: the class of the scheduler, or of a part of it, that computes each learning rate from the initial
            one and ignores the current one; None if it continues from the current one.
        metric: the metric that the scheduler is given, if it takes one.
    """

    def __init__(
        self,
        handler: object,
        scheduler: LRScheduler,
        event: Any,
        *,
        closed_form: str | None,
        metric: object = None,
        **known: Any,
    ) -> None:
        super().__init__(handler, event, **known)
        self.scheduler = weakref.ref(scheduler)
        self.optimizer = weakref.ref(scheduler.optimizer)
        self.kind = type(scheduler)
        self.closed_form = closed_form
        self.metric = metric if isinstance(metric, str) else None if metric is None else id(metric)


class FreezesParameters(Role):
    """Freezes and unfreezes parameters, by name.

    Attributes:
        counts_all_ranks: whether the trainable fraction in the metrics is that of all ranks of a pipeline together.
    """

    def __init__(
        self,
        handler: object,
        parameters: Mapping[str, nn.Parameter],
        *events: Any,
        counts_all_ranks: bool = False,
        **known: Any,
    ) -> None:
        super().__init__(handler, *events, **known)
        self.counts_all_ranks = counts_all_ranks
        self.parameters = {name: weakref.ref(parameter) for name, parameter in parameters.items()}

    def metric_names(self) -> list[str]:
        """Return the name of the share that trains."""
        return ["trainable_fraction"]


class WritesNames(Role):
    """Writes values under names to a logger, or to the trainer's metrics where ``logger`` is None.

    Attributes:
        names: a weak reference to a bound method that returns the names, which may change during a run.
    """

    def __init__(self, handler: object, logger: object | None, names: Callable[[], list[str]], event: Any) -> None:
        super().__init__(handler, event, is_logger=True)
        self.logger = None if logger is None else weakref.ref(logger)
        self.names = weakref.WeakMethod(names)
        self.is_deferred = OptimizerEvents.STEP_STARTED.name in self.events

    def metric_names(self) -> list[str]:
        """Return the names that go to the trainer's metrics."""
        names = self.names() if self.logger is None else None
        return [] if names is None else names()
