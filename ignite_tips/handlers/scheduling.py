"""Step any torch learning-rate scheduler, by its own ``step()``, when an Ignite event says so."""

from collections.abc import Mapping
from typing import Any

from ignite.engine import Engine, Events
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ignite_tips._checks import check_instance
from ignite_tips.attachment import Attachment
from ignite_tips.scheduler_state import load_scheduler, save_scheduler

__all__ = ["SchedulerStepper"]


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
        self._attachment = Attachment()

    def attach(self, trainer: Engine, event: Any = Events.EPOCH_COMPLETED) -> None:
        """Step the scheduler whenever ``trainer`` fires ``event``; attaching again replaces that."""
        check_instance("trainer", trainer, Engine, "an ignite Engine")
        with self._attachment.renew():
            self._attachment.add_step_handler(trainer, self.scheduler.optimizer, event, self._step)

    def detach(self) -> None:
        """Step the scheduler no more."""
        self._attachment.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return plain values, for a checkpoint."""
        return save_scheduler(self.scheduler)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what ``state_dict`` returned; see ``load_scheduler``."""
        load_scheduler(self.scheduler, state)

    def _step(self, trainer: Engine) -> None:
        self.scheduler.step()
