"""The handler that all clippers are: a clipping method and a non-finite policy, acting before each update."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf
from types import NoneType
from typing import Any, Literal, Self

import torch
from ignite.engine import Engine, Events, State
from torch import Tensor, nn
from torch.optim import Optimizer

from ignite_tips._checks import check_choice, check_instance, check_integer, check_keys, check_tag
from ignite_tips.clipping.clip_record import ClipRecord
from ignite_tips.clipping.gradients import Gradients, check_parameters
from ignite_tips.clipping.nonfinite import NonfinitePolicy
from ignite_tips.clipping.norms import to_device, total_norm
from ignite_tips.clipping.rank_norms import RankNorms
from ignite_tips.core.conflicts import add_checked_role
from ignite_tips.core.events import OptimizerEvents, check_optimizer, current_step
from ignite_tips.core.findings import HandlerReport
from ignite_tips.core.handler import Handler
from ignite_tips.core.missing_updates import describe_no_gradients, warn_after_first_epoch
from ignite_tips.core.optimizer_step import OptimizerStep
from ignite_tips.core.roles import ClipsGradients
from ignite_tips.core.wiring import Attachment, runs_last
from ignite_tips.parameters.selection import check_belongs

__all__ = ["ClippingMethod", "GradientClipper", "Update"]

_WORTH_FOLDING = 1 << 16  # values; a pass over fewer on the CPU costs next to nothing


class Update:
    """One update's gradients and their norms, as a clipping method sees them.

    Attributes:
        step: the update under way.
        gradients: the gradients.
        norms: the norm of each list of gradients, on one device.
        norm: the norm of all; a number where the host has it.
    """

    __slots__ = ("_runs_last", "gradients", "norm", "norms", "step")

    def __init__(self, step: OptimizerStep, gradients: Gradients, runs_last: Callable[[], bool]) -> None:
        self.step = step
        self.gradients = gradients
        self.norms: list[Tensor] = []
        self.norm: Tensor | float = 0.0
        self._runs_last = runs_last

    @property
    def may_scale_in_kernel(self) -> bool:
        """Whether to let a fused kernel scale all gradients within the update.

        It must be cheaper than a pass over them, and no later handler may read them unscaled.
        """
        gradients = self.gradients
        return (
            self.step.is_fused
            and (not gradients.on_host or gradients.size > _WORTH_FOLDING)
            and gradients.are_uniform
            and self._runs_last()
        )


class ClippingMethod(ABC):
    """What a clipper does to the gradients of one update."""

    norm_type = 2.0  # of the norm that is the metric
    reads_norm = False  # whether the host needs the norm before it can clip
    limit = inf  # the norm above which it always clips, if there is one

    def __init__(self, settings: str) -> None:
        """Keep the settings, for messages."""
        self.settings = settings

    @abstractmethod
    def measure(self, gradients: Gradients) -> list[Sequence[Tensor]]:
        """Return the norm of each gradient, in lists."""

    @abstractmethod
    def clip(self, update: Update) -> Tensor | float:
        """Clip measured gradients in place; return the smallest factor that any was multiplied by."""

    def clip_quickly(self, update: Update) -> tuple[float, float] | None:
        """Do all of it if there is a cheaper way, and return the norm and the factor."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return what the method has learned."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027  # most methods learn nothing
        """Take up what another learned."""


class GradientClipper(Handler):
    """Acts on final gradients, before every update of one optimizer."""

    def __init__(
        self,
        optimizer: Optimizer,
        method: ClippingMethod,
        *,
        per_group: bool = False,
        on_nonfinite: Literal["raise", "skip", "propagate"] = "raise",
        model: nn.Module | None = None,
        tag: str | None = None,
        process_group: Any = None,
        norm_group: Any = None,
    ) -> None:
        check_optimizer(optimizer, "clip in its closure with clip_gradient_norm() instead")
        check_instance("per_group", per_group, bool, "True or False")
        check_choice("on_nonfinite", on_nonfinite, ("raise", "skip", "propagate"))
        check_instance("model", model, (nn.Module, NoneType), "a torch.nn.Module or None")
        if model is not None:
            check_belongs(optimizer, model)
        check_tag(tag)
        check_parameters(optimizer)
        self._optimizer = optimizer
        self._method = method
        self._model = model
        self._policy = NonfinitePolicy(on_nonfinite, optimizer, model)
        agrees = on_nonfinite != "propagate"
        self._ranks = RankNorms(optimizer, model, method.norm_type, process_group, norm_group, agrees=agrees)
        self._per_group = per_group
        prefix = "" if tag is None else f"{tag}/"
        self._norm_name, self._coefficient_name = f"{prefix}grad_norm", f"{prefix}grad_clip_coef"
        self._had_gradients = False  # in any update of the run
        self._record = ClipRecord()
        self._attachment = Attachment(type(self).__name__)

    def attach(self, trainer: Engine) -> Self:
        """Clip before every update that the optimizer makes while ``trainer`` runs; attaching again replaces.

        Warns at the start of a run about a second clipper of this class on the optimizer, and about a clipper of
        another optimizer that writes the same metrics. Warns after the first epoch if the optimizer has parameters to
        train but was not stepped, or had no gradient. A later epoch without updates gives no warning: two optimizers
        may take turns. If the run replaces its optimizer, detach this clipper and attach one for the new optimizer.

        Raises:
            TypeError: if ``trainer`` is no Engine.
        """
        with self._attachment.renew(self):
            self._attachment.add_step_handler(trainer, self._optimizer, OptimizerEvents.STEP_STARTED, self._clip)
            role = ClipsGradients(
                self,
                self._optimizer,
                metric=self._norm_name,
                factor=self._coefficient_name,
                threshold=self._method.settings,
                model=self._model,
                report=self._report,
            )
            add_checked_role(self._attachment, trainer, role)
            self._attachment.add_handler(trainer, Events.STARTED, self._start_run)
            for ending in (Events.EPOCH_COMPLETED, Events.COMPLETED):
                self._attachment.add_handler(trainer, ending, self._policy.raise_deferred)
            warn_after_first_epoch(self._attachment, trainer, self._describe_no_gradients)
            self._ranks.look_for_peers()
        return self

    def detach(self) -> None:
        """Stop clipping; without an attachment, do nothing.

        Raises:
            RuntimeError: if the device skipped the last update because of a gradient that was not finite; the clipper
                is detached all the same.
        """
        self._attachment.clear()
        self._policy.raise_deferred()

    def state_dict(self) -> dict[str, Any]:
        """Return ``"skipped_steps"``, the number of skipped updates, and what the clipper learned from norms."""
        return {"skipped_steps": self._policy.skipped, **self._method.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up the state of another run.

        Raises:
            TypeError, ValueError: if the state is not that of such a clipper; nothing is changed then.
        """
        keys = ("skipped_steps", *self._method.state_dict())
        state = check_keys(f"{type(self).__name__} state", state_dict, keys)
        skipped = check_integer("the state's skipped_steps", state["skipped_steps"], ge=0)
        self._method.load_state_dict(state)
        self._policy.load(skipped)

    def _start_run(self, engine: Engine) -> None:
        self._had_gradients = False
        self._record.start_run(self._policy.skipped)
        self._policy.start_run(engine)
        self._ranks.start_run(per_group=self._per_group)

    def _clip(self, engine: Engine) -> None:
        self._policy.start_update(engine)
        gradients = Gradients(self._optimizer, per_group=self._per_group)
        self._had_gradients = self._had_gradients or any(gradients.lists)
        update = Update(current_step(engine), gradients, partial(runs_last, engine, self._optimizer, self._clip))
        done = None if self._ranks.has_peers else self._method.clip_quickly(update)
        norm, factor = self._measure_and_clip(engine, update) if done is None else done
        metrics = engine.state.metrics
        metrics[self._norm_name], metrics[self._coefficient_name] = norm, factor
        self._record.keep(norm, factor)

    @torch.no_grad()
    def _measure_and_clip(self, engine: Engine, update: Update) -> tuple[Tensor | float, Tensor | float]:
        gradients, norm_type = update.gradients, self._method.norm_type
        gradient_norms = self._method.measure(gradients)
        norms = [total_norm(listed, norm_type) for listed in gradient_norms]
        if len(norms) > 1:  # of groups that may lie on several devices
            device = gradients.device
            norms = [to_device(device, norm) for norm in norms]
        update.norms = self._ranks.combine(norms)
        norm = update.norms[0] if len(norms) == 1 else total_norm(update.norms, norm_type)
        update.norm = norm.item() if gradients.on_host or self._method.reads_norm else norm
        self._policy.admit(engine, update.step, gradients, gradient_norms, update.norm)
        factor = self._method.clip(update)
        return update.norm if gradients.on_host else norm, factor

    def _report(self, trainer: Engine, plan: State) -> HandlerReport:
        name = f"{type(self).__name__} of {type(self._optimizer).__name__}"
        return self._record.report(name, self._method.settings, self._method.limit, self._policy.skipped)

    def _describe_no_gradients(self, engine: Engine) -> str | None:
        what = describe_no_gradients(engine, self._optimizer, had_gradients=self._had_gradients)
        return None if what is None else f"{type(self).__name__} found {what}"
