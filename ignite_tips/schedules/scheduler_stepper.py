"""Step any torch learning-rate scheduler, by its own ``step()``, at an Ignite event."""

import functools
from collections.abc import Mapping
from typing import Any, Self

from ignite.engine import Engine, Events, State
from ignite.handlers.param_scheduler import ParamScheduler
from torch import Tensor
from torch.optim import LBFGS
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ignite_tips._checks import check_integer, check_keys
from ignite_tips._warnings import warn_user
from ignite_tips.core.conflicts import add_checked_role
from ignite_tips.core.events import (
    check_events,
    completed_updates,
    hold_optimizer_events,
    is_optimizer_event,
    times_loaded,
)
from ignite_tips.core.findings import Finding, HandlerReport
from ignite_tips.core.handler import Handler
from ignite_tips.core.missing_updates import describe_no_update, never_stepped, warn_after_first_epoch
from ignite_tips.core.roles import SetsLearningRates
from ignite_tips.core.wiring import Attachment
from ignite_tips.schedules.built_schedule import BuiltSchedule
from ignite_tips.schedules.run_length import (
    check_first_epoch,
    check_is_resumed,
    check_run,
    explain_failure,
    may_have_stepped,
    steps_done,
    steps_missing,
)
from ignite_tips.schedules.schedule_report import report_schedule
from ignite_tips.schedules.state import save_scheduler
from ignite_tips.schedules.torch_internals import check_scheduler, closed_form_in, without_step_warnings

__all__ = ["SchedulerStepper"]


class SchedulerStepper(Handler):
    """Steps a torch learning-rate scheduler as the hand-written loop does.

    It acts after each epoch, as is usual, or on the event given to ``attach``. For a schedule that counts updates, give
    ``OptimizerEvents.STEP_COMPLETED``: it does not fire for a micro-batch of an accumulation or for a step that
    GradScaler skips. The handler calls ``scheduler.step()`` and nothing else, so every scheduler, torch's or a user's,
    gives the learning rates of the hand-written loop.

    At the end of an epoch, an iteration or an update, a checkpoint may be written before or after the step. A run
    resumed from it makes up for a missing step.

    Args:
        scheduler: any torch scheduler except ReduceLROnPlateau, which needs ``PlateauStepper``.

    Raises:
        TypeError: if ``scheduler`` is not a torch scheduler, or is ReduceLROnPlateau.

    State saved: the scheduler's state, the optimizer's learning rates and momenta, and the iteration and the number of
    updates at the last step.

    Example:
        >>> sgd = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
        >>> trainer = Engine(lambda engine, batch: sgd.step())
        >>> _ = SchedulerStepper(torch.optim.lr_scheduler.StepLR(sgd, step_size=2)).attach(trainer)
        >>> _ = trainer.run(range(5), max_epochs=2)
        >>> print(f"{sgd.param_groups[0]['lr']:g}")
        0.01
    """

    def __init__(self, scheduler: LRScheduler) -> None:
        if isinstance(scheduler, ParamScheduler):  # one of them has the same name as torch's class
            raise TypeError(
                f"scheduler must be torch's, got Ignite's {type(scheduler).__name__}; pass the torch scheduler itself"
            )
        check_scheduler(
            scheduler,
            remedy="step it in a handler of your own with what its step() takes, such as "
            "lambda engine: scheduler.step(engine.state.epoch), and put it into to_save",
        )
        if isinstance(scheduler, ReduceLROnPlateau):
            raise TypeError(
                "scheduler must be stepped without a metric, got ReduceLROnPlateau; use PlateauStepper, which steps "
                "it with a validation metric"
            )
        self.scheduler = scheduler
        self._built = BuiltSchedule(scheduler)
        self._steps = 0  # in the current run
        self._may_have_changed = False  # whether one of them changed a learning rate; always True for tensors
        self._is_early = False  # whether the first of them came before any update
        self._iteration: int | None = None  # of the last step or of the run's start, if known
        self._updates = 0  # of its optimizer, completed at that iteration
        self._can_resume = False  # after a run in this process, or once a state was loaded
        self._trainer_loads: int | None = None  # at the latest start; None once a state of our own was loaded
        self._made_elsewhere: int | None = None  # steps of the scheduler that this handler did not make
        self._is_stepped_elsewhere = False  # whether other code made one of them in the current run
        self._is_whole_first_epoch = False  # whether the run is in its first epoch, and started at its beginning
        self._event: Any = None
        self._attachment = Attachment(type(self).__name__)

    def attach(self, trainer: Engine, event: Any = Events.EPOCH_COMPLETED) -> Self:
        """Step the scheduler whenever ``trainer`` fires ``event``. Attaching again replaces this.

        When the run starts, it warns once about a second scheduler of the same class and optimizer, unless one of the
        two has a filter on its event.

        Args:
            trainer: the engine in which the scheduler's optimizer makes its updates.
            event: any event of the trainer, with or without a filter, or several events.

        Raises:
            TypeError: if ``trainer`` is not an Engine, or ``event`` not an event.
            ValueError: if the trainer does not know the event; if another handler of the trainer steps this scheduler;
                if another handler's scheduler of the same optimizer and this one would undo each other's steps; when
                the run starts, if Ignite's own schedulers also set the learning rates.
            RuntimeError: when a run is resumed, if the scheduler is new and no state was loaded, or if the trainer's
                state was loaded back and the scheduler's was not.
        """
        members = check_events("event", event, trainer)
        is_per_update = any(is_optimizer_event(member) for member in members)
        optimizer = self.scheduler.optimizer
        self._can_resume = self._can_resume or trainer.last_event_name is not None
        self._trainer_loads = None
        with self._attachment.renew(self):
            role = SetsLearningRates(
                self, self.scheduler, event, closed_form=closed_form_in(self.scheduler), report=self._report
            )
            add_checked_role(self._attachment, trainer, role)
            has_updates = is_per_update or not isinstance(optimizer, LBFGS)  # which has no OptimizerEvents
            if has_updates:  # first, to have the counts ready when a resumed run starts
                self._attachment.add_undo(hold_optimizer_events(trainer, optimizer))
            self._attachment.add_handler(trainer, Events.STARTED, functools.partial(self._start, event))
            if has_updates:
                self._attachment.add_step_handler(trainer, optimizer, event, self._step_after_update)
                warn_after_first_epoch(self._attachment, trainer, self._describe_no_update)
            else:
                self._attachment.add_handler(trainer, event, self._step)
            self._attachment.add_handler(trainer, Events.EPOCH_COMPLETED, functools.partial(self._end_epoch, event))
        self._event = event
        return self

    def detach(self) -> None:
        """Stop stepping the scheduler."""
        self._attachment.clear()
        self._event = None

    def state_dict(self) -> dict[str, Any]:
        """Return plain values, for a checkpoint."""
        state = {"iteration": self._iteration, "updates": self._updates}
        return {**state, "scheduler": save_scheduler(self.scheduler)}

    def load_state_dict(self, state: Mapping[str, Any], *, keep_settings: bool = False) -> None:
        """Restore what ``state_dict`` returned.

        A checkpoint includes the scheduler's settings, and a warning is given if they replace others. To continue for
        longer with a new schedule, build the scheduler for the whole run and load with ``keep_settings=True``: it
        continues from the saved step, with the learning rates of a run that had the new schedule from its start.
        The state of the optimizer may be loaded before or after.

        Args:
            state: what ``state_dict`` returned.
            keep_settings: whether the scheduler keeps the settings it was built with. Its class may then differ from
                the saved one's. It is stepped from its start, so a million steps take some ten seconds.

        Raises:
            TypeError: if ``state`` is not a mapping, or ``keep_settings`` not a bool.
            ValueError: if it has other keys; if it belongs to another kind of scheduler or number of param groups; with
                ``keep_settings``, if the scheduler is not new, or raises before the saved step.
        """
        checked = check_keys("SchedulerStepper state", state, ("iteration", "scheduler", "updates"))
        if (iteration := checked["iteration"]) is not None:
            check_integer("the state's iteration", iteration, ge=0)
        updates = check_integer("the state's updates", checked["updates"], ge=0)
        self._built.load(checked["scheduler"], keep_settings=keep_settings)
        self._iteration, self._updates, self._trainer_loads = iteration, updates, None
        self._can_resume = True

    def _start(self, event: Any, trainer: Engine) -> None:
        state = trainer.state
        self._check_not_left_behind(trainer)
        self._built.restore_learning_rates()
        self._steps, self._is_early, self._is_stepped_elsewhere = 0, False, False
        # Tensors are not compared: that would wait for the device.
        self._may_have_changed = any(isinstance(lr, Tensor) for lr in self._learning_rates())
        self._is_whole_first_epoch = state.iteration == state.epoch * (state.epoch_length or 0)
        if state.iteration == 0:  # a new run, not a resumed one
            self._iteration, self._updates = 0, 0
        elif self._iteration is not None and (missing := self._steps_missing(event, trainer)):
            # The checkpoint was written between the event and the step, by a handler attached earlier.
            for _ in range(missing):
                self._step_without_update(trainer)  # the earlier process made the update
        elif not self._can_resume and may_have_stepped(event, trainer, self.scheduler):
            check_is_resumed("SchedulerStepper", self.scheduler, state)
        self._can_resume = True
        self._made_elsewhere = steps_done(self.scheduler) - self._steps
        check_run(self.scheduler, event, state)

    def _check_not_left_behind(self, trainer: Engine) -> None:
        loads, iteration = times_loaded(trainer), trainer.state.iteration
        if self._trainer_loads not in (None, loads) and (self._iteration or 0) > iteration:
            raise RuntimeError(
                "SchedulerStepper must stand where its trainer stands, but the trainer's state was loaded back to "
                f"iteration {iteration}, and its {type(self.scheduler).__name__} was stepped until iteration "
                f"{self._iteration}; restore both, with the SchedulerStepper in to_save of FastaiLRFinder or Checkpoint"
            )
        self._trainer_loads = loads

    def _step_after_update(self, trainer: Engine) -> None:
        if self._steps == 0 and never_stepped(trainer, self.scheduler.optimizer):
            self._is_early = True  # told after the first epoch, when it is known whether an update came later
            self._step_without_update(trainer)
        else:
            self._step(trainer)

    def _step_without_update(self, trainer: Engine) -> None:
        with without_step_warnings():
            self._step(trainer)

    def _step(self, trainer: Engine) -> None:
        self._steps += 1
        self._iteration, self._updates = trainer.state.iteration, self._updates_in(trainer)
        before = [] if self._may_have_changed else self._learning_rates()
        try:
            self.scheduler.step()
        except (KeyError, ValueError) as error:
            reason = explain_failure(self.scheduler, trainer.state)
            if reason is None:
                raise
            raise ValueError(reason) from error
        self._may_have_changed = self._may_have_changed or self._learning_rates() != before

    def _learning_rates(self) -> list[Any]:
        return [group["lr"] for group in self.scheduler.optimizer.param_groups]

    def _report(self, trainer: Engine, plan: State) -> HandlerReport:
        report = report_schedule(
            self.scheduler,
            self._event,
            trainer,
            plan,
            made=self._steps,
            may_have_changed=self._may_have_changed,
            first=self._built.first_learning_rates(),
        )
        if self._is_stepped_elsewhere:
            report.findings.append(Finding("stepped elsewhere", self._describe_other_steps()))
        return report

    def _steps_missing(self, event: Any, trainer: Engine) -> int:
        return steps_missing(event, trainer, self._iteration or 0, self._updates_in(trainer), self._updates)

    def _updates_in(self, trainer: Engine) -> int:
        optimizer = self.scheduler.optimizer
        return 0 if isinstance(optimizer, LBFGS) else completed_updates(trainer, optimizer)

    def _end_epoch(self, event: Any, trainer: Engine) -> None:
        is_first, self._is_whole_first_epoch = self._is_whole_first_epoch, False
        if self._made_elsewhere is not None and steps_done(self.scheduler) - self._steps != self._made_elsewhere:
            self._made_elsewhere = None  # warn once per run
            self._is_stepped_elsewhere = True
            warn_user(self._describe_other_steps())
        if is_first:
            check_first_epoch(self.scheduler, event, trainer.state, self._steps)

    def _describe_other_steps(self) -> str:
        return (
            f"SchedulerStepper must be the only one to step its {type(self.scheduler).__name__}, but other code also "
            "steps it; remove one of the two"
        )

    def _describe_no_update(self, trainer: Engine) -> str | None:
        sentence = describe_no_update(trainer, self.scheduler.optimizer, "schedule")
        if sentence is not None:
            return f"SchedulerStepper found no update of its scheduler's {sentence}"
        if self._is_early:
            return (
                f"SchedulerStepper stepped its {type(self.scheduler).__name__} before the first update of its "
                f"{type(self.scheduler.optimizer).__name__}; attach it to OptimizerEvents.STEP_COMPLETED, or to "
                "the event of the updates after the handler that makes them"
            )
        return None
