"""Reduce the learning rate when a validation metric stops improving."""

import functools
import math
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Self

from ignite.engine import Engine, Events, State
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ignite_tips._checks import check_callable, check_instance, check_integer, check_keys, describe
from ignite_tips._warnings import warn_user
from ignite_tips.core.conflicts import add_checked_role
from ignite_tips.core.findings import Finding, HandlerReport
from ignite_tips.core.handler import Handler
from ignite_tips.core.ignite_internals import is_running
from ignite_tips.core.roles import SetsLearningRates
from ignite_tips.core.wiring import Attachment, annotate
from ignite_tips.schedules.built_schedule import BuiltSchedule
from ignite_tips.schedules.run_length import check_is_resumed
from ignite_tips.schedules.state import check_scheduler_state, save_scheduler
from ignite_tips.schedules.torch_internals import closed_form_in
from ignite_tips.schedules.validation_metric import common_metric, metric_name

__all__ = ["PlateauStepper"]


class PlateauStepper(Handler):
    """Steps torch's ReduceLROnPlateau with a metric of each validation.

    It acts when the evaluator completes a run that the trainer started: the metrics are final then, and the learning
    rate is reduced before the next update.

    A run over the trainer's own data is not a validation and is ignored, unless ``data`` says otherwise. A second run
    at the same iteration is not counted again. With several processes, all of them must evaluate and get the same
    metric: rank 0's is used, and if ranks differ by more than rounding, every rank raises. If the metric is NaN, or
    infinitely good so that nothing could ever be better, a warning is given: the scheduler is not stepped, and the
    epoch does not count as a bad one. An infinitely bad metric is a bad epoch, as in torch.

    Another scheduler may step the same optimizer if it continues from the current learning rate. LambdaLR, CyclicLR,
    OneCycleLR and CosineAnnealingWarmRestarts do not: they would undo every reduction, and are refused. Write
    checkpoints after the validation; a run resumed from one written before it has lost that validation.

    Args:
        scheduler: a ReduceLROnPlateau; all its arguments work.
        metric: the name of one of the evaluator's metrics, or a function of the evaluator that returns a number.

    Raises:
        TypeError: if an argument has the wrong type.

    State saved: the scheduler's state, the optimizer's learning rates and momenta, and the iteration of the last
    validation.

    Example:
        >>> sgd = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
        >>> trainer = Engine(lambda engine, batch: sgd.step())
        >>> evaluator = Engine(lambda engine, batch: engine.state.metrics.update(loss=1.0))
        >>> _ = trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run([0]))
        >>> plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(sgd, factor=0.5, patience=1)
        >>> _ = PlateauStepper(plateau, metric="loss").attach(trainer, evaluator)
        >>> _ = trainer.run(range(5), max_epochs=3)
        >>> sgd.param_groups[0]["lr"]
        0.05
    """

    def __init__(self, scheduler: ReduceLROnPlateau, metric: str | Callable[[Engine], Any] = "loss") -> None:
        if not isinstance(scheduler, ReduceLROnPlateau):
            raise TypeError(
                f"scheduler must be torch's ReduceLROnPlateau, got {describe(scheduler)}; "
                "SchedulerStepper steps other schedulers"
            )
        if not isinstance(metric, str):
            check_callable("metric", metric, "a metric's name or a function of the evaluator")
        elif not metric:
            raise ValueError("metric must be a metric's name or a function of the evaluator, got ''")
        self.scheduler = scheduler
        self.metric = metric
        self._built = BuiltSchedule(scheduler)
        self._iteration = 0  # of the last validation counted; 0 excludes one before the first iteration
        self._can_resume = False  # after a run in this process, or once a state was loaded
        self._validations = 0  # counted in the current run
        self._validated_on: Any = None
        self._has_data = False  # whether the validation data are given
        self._attachment = Attachment(type(self).__name__)

    def attach(self, trainer: Engine, evaluator: Engine, *, data: Any = None) -> Self:
        """Step the scheduler after each run of ``evaluator`` that ``trainer`` starts. Attaching again replaces this.

        Args:
            trainer: the engine that trains.
            evaluator: the engine that validates, run by a handler of ``trainer``.
            data: the validation data, if the evaluator also runs on other data; only runs over this very object count.

        Raises:
            TypeError: if ``trainer`` or ``evaluator`` is not an Engine.
            ValueError: if the two are the same engine; if a SchedulerStepper of the trainer has the same optimizer and
                its scheduler would undo the reductions; if another PlateauStepper has this scheduler; when the run
                starts, if Ignite's own schedulers set the optimizer's learning rates.
            RuntimeError: when a run is resumed, if the scheduler is new and no state was loaded.
        """
        check_instance("trainer", trainer, Engine, "an ignite Engine")
        check_instance("evaluator", evaluator, Engine, "an ignite Engine")
        if evaluator is trainer:
            raise ValueError("evaluator must be another engine than the trainer, got the trainer")
        validated = functools.partial(self._validated, weakref.ref(trainer), data)
        self._can_resume = self._can_resume or trainer.last_event_name is not None
        with self._attachment.renew(self):
            role = SetsLearningRates(
                self,
                self.scheduler,
                Events.COMPLETED,
                closed_form=closed_form_in(self.scheduler),
                metric=self.metric,
                engine=evaluator,
                report=self._report,
            )
            add_checked_role(self._attachment, trainer, role)
            self._attachment.add_handler(trainer, Events.STARTED, self._start)
            self._attachment.add_handler(evaluator, Events.COMPLETED, validated)
            self._attachment.add_handler(trainer, Events.COMPLETED, self._end)
        self._has_data = data is not None
        return self

    def detach(self) -> None:
        """Stop stepping the scheduler."""
        self._attachment.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return plain values, for a checkpoint."""
        return {"iteration": self._iteration, "scheduler": save_scheduler(self.scheduler)}

    def load_state_dict(self, state: Mapping[str, Any], *, keep_settings: bool = False) -> None:
        """Restore what ``state_dict`` returned.

        A checkpoint includes the scheduler's settings, and a warning is given if they replace others.

        Args:
            state: what ``state_dict`` returned.
            keep_settings: whether the scheduler keeps the settings it was built with, such as ``patience``. The
                learning rates, the best metric and the bad epochs are those saved.

        Raises:
            TypeError: if ``state`` is not a mapping, or ``keep_settings`` not a bool.
            ValueError: if it has other keys; if it belongs to another kind of scheduler or number of param groups; with
                ``keep_settings``, if the saved scheduler had another mode.
        """
        checked = check_keys("PlateauStepper state", state, ("iteration", "scheduler"))
        check_scheduler_state(self.scheduler, checked["scheduler"])
        iteration = check_integer("the state's iteration", checked["iteration"], ge=0)
        self._built.load(checked["scheduler"], keep_settings=keep_settings)
        self._iteration = iteration
        self._can_resume = True

    def _start(self, trainer: Engine) -> None:
        self._validated_on, self._validations = None, 0
        if trainer.state.iteration == 0:  # a new run, not a resumed one
            self._iteration = 0
        elif not self._can_resume:
            check_is_resumed("PlateauStepper", self.scheduler, trainer.state)
        self._can_resume = True

    def _end(self, trainer: Engine) -> None:
        if self._validations == 0 and not trainer.should_terminate:
            warn_user(self._describe_no_validation())

    def _describe_no_validation(self) -> str:
        what = "the very object given as data" if self._has_data else "other data than the training data"
        return (
            "PlateauStepper counted no validation in this run; run the evaluator in a handler of the trainer, "
            f"over {what}, and attach(trainer, evaluator) in this order"
        )

    def _report(self, trainer: Engine, plan: State) -> HandlerReport:
        found = []
        if self._validations == 0 and trainer.last_event_name == Events.COMPLETED:
            found.append(Finding("no validation", self._describe_no_validation()))
        return HandlerReport(facts={"validations": str(self._validations)}, findings=found)

    def _validated(self, trainer_ref: Callable[[], Engine | None], data: Any, evaluator: Engine) -> None:
        trainer = trainer_ref()
        if trainer is None or not is_running(trainer) or not self._counts(trainer, data, evaluator):
            return
        value = common_metric(evaluator, self.metric, needed_by="PlateauStepper")
        self._iteration = trainer.state.iteration
        self._validations += 1
        if math.isnan(value) or value == _unbeatable(self.scheduler):
            what = f"{value:g} for {metric_name(self.metric)} in epoch {trainer.state.epoch}"
            warn_user(f"PlateauStepper got {what}; the scheduler was not stepped")
        else:
            self._step(trainer, value)

    def _counts(self, trainer: Engine, data: Any, evaluator: Engine) -> bool:
        """Whether the completed run of ``evaluator`` is a validation that was not counted yet."""
        seen = evaluator.state.dataloader
        if data is not None and seen is not data:
            return False
        if data is None and seen is not None and seen is trainer.state.dataloader:
            return False
        before, self._validated_on = self._validated_on, seen
        if trainer.state.iteration != self._iteration:
            return True
        if before is not None and before is not seen:
            raise RuntimeError(
                f"PlateauStepper needs one validation at a time, but the evaluator ran on two data sets at iteration "
                f"{self._iteration}; choose one with attach(trainer, evaluator, data=...)"
            )
        return False

    def _step(self, trainer: Engine, value: float) -> None:
        before = _learning_rates(self.scheduler)
        self.scheduler.step(value)
        if (after := _learning_rates(self.scheduler)) != before:
            was, now = (", ".join(f"{lr:.4g}" for lr in lrs) for lrs in (before, after))
            text = f"{metric_name(self.metric)} is {value:.4g}, its best was {self.scheduler.best:.4g}"
            annotate(trainer, "plateau", f"{text}; learning rate from {was} to {now}")


def _unbeatable(scheduler: ReduceLROnPlateau) -> float:
    return -math.inf if scheduler.mode == "min" else math.inf


def _learning_rates(scheduler: ReduceLROnPlateau) -> list[float]:
    return [float(group["lr"]) for group in scheduler.optimizer.param_groups]
