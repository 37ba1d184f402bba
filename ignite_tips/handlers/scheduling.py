"""Step any torch learning-rate scheduler, by its own ``step()``, when an Ignite event says so."""

import functools
import warnings
from collections.abc import Mapping
from typing import Any

from ignite.engine import Engine, Events, State
from torch.optim import LBFGS
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ignite_tips._checks import check_instance
from ignite_tips.attachment import Attachment
from ignite_tips.events import completed_updates, is_optimizer_event
from ignite_tips.schedule_length import find_misfits
from ignite_tips.scheduler_state import load_scheduler, save_scheduler

__all__ = ["SchedulerStepper"]

_EPOCH_EVENTS = (Events.EPOCH_STARTED, Events.EPOCH_COMPLETED)
_REBUILD = "; build the scheduler for the run's length"
_ITERATION_EVENTS = (Events.ITERATION_STARTED, Events.ITERATION_COMPLETED)


class SchedulerStepper:
    """Steps a torch learning-rate scheduler as the hand-written loop does.

    It acts after each epoch, as is the field's habit, or on the event that ``attach`` is given. For a schedule per
    update that is ``OptimizerEvents.STEP_COMPLETED``, which does not fire for a micro-batch of an accumulation or
    a step that GradScaler skips: the schedule then counts updates, not batches. It calls ``scheduler.step()`` and
    nothing else, so that every scheduler that torch has, or a user writes, gives the rates of the hand-written loop.

    Attach it before a handler that saves checkpoints on the same event.

    Args:
        scheduler: any torch scheduler but ReduceLROnPlateau, for which there is ``PlateauStepper``.

    Raises:
        TypeError: if ``scheduler`` is no torch scheduler, or ReduceLROnPlateau.

    State saved: the scheduler's own, and the optimizer's rates and momenta.

    Example:
        >>> sgd = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
        >>> trainer = Engine(lambda engine, batch: sgd.step())
        >>> SchedulerStepper(torch.optim.lr_scheduler.StepLR(sgd, step_size=2)).attach(trainer)
        >>> _ = trainer.run(range(5), max_epochs=2)
        >>> print(f"{sgd.param_groups[0]['lr']:g}")
        0.01
    """

    def __init__(self, scheduler: LRScheduler) -> None:
        check_instance("scheduler", scheduler, LRScheduler, "a torch learning-rate scheduler")
        if isinstance(scheduler, ReduceLROnPlateau):
            raise TypeError(
                "scheduler must be stepped without a metric, got ReduceLROnPlateau; use PlateauStepper, which gives "
                "it a metric of the validation"
            )
        self.scheduler = scheduler
        self._steps = 0  # in the run under way
        self._measures = False  # whether the epoch under way is the run's first, and whole
        self._attachment = Attachment()

    def attach(self, trainer: Engine, event: Any = Events.EPOCH_COMPLETED) -> None:
        """Step the scheduler whenever ``trainer`` fires ``event``; attaching again replaces that.

        Args:
            trainer: the engine whose updates the scheduler's optimizer makes.
            event: any event of the trainer, filtered or not, or several.
        """
        check_instance("trainer", trainer, Engine, "an ignite Engine")
        optimizer = self.scheduler.optimizer
        with self._attachment.renew():
            if isinstance(optimizer, LBFGS) and not is_optimizer_event(event):  # it has no OptimizerEvents
                self._attachment.add_handler(trainer, event, self._step)
                return
            self._attachment.add_handler(trainer, Events.STARTED, functools.partial(self._start, event))
            step = self._step if is_optimizer_event(event) else self._step_after_update
            self._attachment.add_step_handler(trainer, optimizer, event, step)
            self._attachment.add_handler(trainer, Events.EPOCH_COMPLETED, functools.partial(self._end_epoch, event))

    def detach(self) -> None:
        """Step the scheduler no more."""
        self._attachment.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return plain values, for a checkpoint."""
        return save_scheduler(self.scheduler)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what ``state_dict`` returned; see ``load_scheduler``."""
        load_scheduler(self.scheduler, state)

    def _start(self, event: Any, trainer: Engine) -> None:
        self._steps = 0
        self._measures = trainer.state.iteration == 0 or _is_at_epoch_end(trainer.state)
        steps = _steps_in_run(trainer.state, event)
        if steps is not None:
            self._check_length(event, steps, certain=True)

    def _step_after_update(self, trainer: Engine) -> None:
        if self._steps == 0 and completed_updates(trainer, self.scheduler.optimizer) == 0:
            raise RuntimeError(
                f"SchedulerStepper must step after an update of its scheduler's {_name(self.scheduler.optimizer)}, but "
                f"the trainer has made none by iteration {trainer.state.iteration}; schedule the optimizer that the "
                "trainer steps, or attach it to OptimizerEvents.STEP_COMPLETED"
            )
        self._step(trainer)

    def _step(self, trainer: Engine) -> None:
        self._steps += 1
        try:
            self.scheduler.step()
        except ValueError as error:
            for misfit in find_misfits(self.scheduler, steps=0):
                if misfit.fails:
                    state = trainer.state
                    raise ValueError(f"{misfit.text} by epoch {state.epoch} of {state.max_epochs}{_REBUILD}") from error
            raise

    def _end_epoch(self, event: Any, trainer: Engine) -> None:
        if not self._measures:
            return
        self._measures = False
        if is_optimizer_event(event) and completed_updates(trainer, self.scheduler.optimizer) == 0:
            warnings.warn(
                f"SchedulerStepper found no update of its scheduler's {_name(self.scheduler.optimizer)} in a whole "
                "epoch; schedule the optimizer that the trainer steps",
                stacklevel=2,
            )
        state = trainer.state
        if state.max_epochs is not None and event not in _EPOCH_EVENTS and _steps_in_run(state, event) is None:
            self._check_length(event, self._steps * (state.max_epochs - state.epoch), certain=False)

    def _check_length(self, event: Any, steps: int, *, certain: bool) -> None:
        """Say once in a run that the schedule is made for another length."""
        per_epoch = event in _EPOCH_EVENTS
        for misfit in find_misfits(self.scheduler, steps):
            if misfit.fails and certain:
                raise ValueError(misfit.text + _REBUILD)
            remedy = ""
            if misfit.too_short and not per_epoch:
                remedy = "; if it counts epochs, attach(trainer) steps it after each"
            elif not misfit.too_short and per_epoch:
                remedy = "; if it counts updates, attach(trainer, OptimizerEvents.STEP_COMPLETED) steps it after each"
            warnings.warn(misfit.text + remedy, stacklevel=2)


def _is_at_epoch_end(state: State) -> bool:
    return bool(state.epoch_length and state.iteration % state.epoch_length == 0)


def _steps_in_run(state: State, event: Any) -> int | None:
    """Return how many times the event will come, where that is known at the start of a run."""
    if getattr(event, "filter", None) is not None or state.max_epochs is None:
        return None
    if event in _EPOCH_EVENTS:
        return state.max_epochs - state.epoch
    if event in _ITERATION_EVENTS and state.epoch_length is not None:
        return state.max_epochs * state.epoch_length - state.iteration
    return None


def _name(thing: object) -> str:
    return type(thing).__name__
