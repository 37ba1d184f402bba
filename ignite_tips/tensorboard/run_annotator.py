"""Write what happened in a run next to its TensorBoard curves, to explain jumps in them."""

import re
from typing import Any, Self

import ignite.distributed as idist
from ignite.engine import Engine, Events, State
from ignite.handlers import TensorboardLogger
from torch import nn
from torch.optim import Optimizer

from ignite_tips._checks import check_instance, check_tag
from ignite_tips.core.conflicts import add_checked_role
from ignite_tips.core.events import OptimizerEvents, check_events, check_optimizer
from ignite_tips.core.findings import Finding, HandlerReport
from ignite_tips.core.handler import Handler
from ignite_tips.core.roles import ClipsGradients, FreezesParameters, Role
from ignite_tips.core.wiring import Annotation, Attachment, on_annotation, roles_of
from ignite_tips.parameters.selection import check_belongs, trainable_fraction, unwrap_model
from ignite_tips.tensorboard.scalar_writer import ScalarWriter
from ignite_tips.tensorboard.summary_writer import add_chart, write_text

__all__ = ["RunAnnotator"]

_NORMS = ("grad_norm", "grad_clip_coef")
_FRACTION, _SKIPPED = "trainable_fraction", "skipped_steps"
_KEPT = 100


class RunAnnotator(Handler):
    """Writes freezing and unfreezing, plateau reductions and skipped updates as text, and gradient norms as scalars.

    Each annotation is a text entry under ``annotations``, at the update at which it was made. An entry repeats the
    earlier ones, because TensorBoard shows at most ten texts of a run. On STEP_COMPLETED, when the update is counted,
    it writes these scalars: ``grad_norm`` (before clipping) and ``grad_clip_coef``, which clippers leave in
    ``trainer.state.metrics``; ``trainable_fraction`` and ``skipped_steps`` when they change. The x axis is always the
    optimizer step. Only rank 0 writes. Of a model in several stages it writes the fraction of rank 0's stage, unless a
    freezing handler has ``pattern_group`` and so knows that of all.

    Args:
        model: the model whose fraction of trainable parameters is written.
        optimizer: the optimizer of that model, whose updates are counted.
        tag: a prefix of the names, not empty, to tell several optimizers apart; the same as the clipper's ``tag``.

    Raises:
        TypeError: if an argument has the wrong type, or the optimizer computes its gradients several times in one
            update, as LBFGS does.
        ValueError: if the optimizer has none of the model's parameters.

    State saved: none.

    Example:
        >>> import tempfile
        >>> from ignite.handlers import TensorboardLogger
        >>> model = nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> trainer = Engine(lambda engine, batch: optimizer.step())
        >>> with tempfile.TemporaryDirectory() as folder, TensorboardLogger(folder) as tb_logger:
        ...     _ = RunAnnotator(model, optimizer).attach(trainer, tb_logger)
        ...     _ = trainer.run(range(3))
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, *, tag: str | None = None) -> None:
        check_instance("model", model, nn.Module, "a torch.nn.Module")
        check_optimizer(optimizer, "log trainer.state.metrics at an Ignite event with OutputHandler instead")
        check_belongs(optimizer, model)
        check_tag(tag)
        self._prefix = f"{tag}/" if tag else ""
        self._model = model
        self._optimizer = optimizer
        self._annotations: list[str] = []
        self._trainable_fraction: float | None = None  # None until it is asked for again
        self._norms = ScalarWriter(None)  # replaced by attach()
        self._counts: dict[str, ScalarWriter] = {}
        self._attachment = Attachment(type(self).__name__)

    def attach(
        self, trainer: Engine, tb_logger: TensorboardLogger, event: Any = OptimizerEvents.STEP_COMPLETED
    ) -> Self:
        """Write what happens in the run of ``trainer``; scalars at ``event``, less often with ``every=``.

        Raises:
            TypeError: if an argument has the wrong type.
            ValueError: if the trainer does not know the event.
        """
        check_events("event", event, trainer)
        check_instance("tb_logger", tb_logger, TensorboardLogger, "an ignite TensorboardLogger")
        with self._attachment.renew(self):
            if idist.get_rank() > 0:
                return self
            self._annotations = []
            self._trainable_fraction = None
            self._norms = ScalarWriter(tb_logger)
            self._counts = {name: ScalarWriter(tb_logger, only_changes=True) for name in (_FRACTION, _SKIPPED)}
            for name in _NORMS:
                add_chart(tb_logger.writer, f"{self._prefix}gradients", name, [f"^{re.escape(self._prefix)}{name}$"])
            role = Role(self, event, model=self._model, report=self._report, is_logger=True)
            add_checked_role(self._attachment, trainer, role)
            self._attachment.add_undo(
                on_annotation(trainer, lambda engine, annotation: self._annotate(tb_logger.writer, annotation))
            )
            self._attachment.add_handler(trainer, Events.EPOCH_STARTED, self._forget_fraction)
            self._attachment.add_step_handler(trainer, self._optimizer, event, self._write_scalars)
            for ending in (Events.COMPLETED, Events.TERMINATE):
                self._attachment.add_handler(trainer, ending, self._write_held)
        return self

    def detach(self) -> None:
        """Stop writing."""
        self._attachment.clear()

    def _report(self, trainer: Engine, plan: State) -> HandlerReport:
        clippers = [role for role in roles_of(ClipsGradients, trainer) if role.optimizer() is self._optimizer]
        name, names = f"{self._prefix}grad_norm", [role.metric for role in clippers]
        if not names or name in names:
            return HandlerReport()
        text = (
            f"RunAnnotator looks for the metric {name!r}, but the clipper of its {type(self._optimizer).__name__} "
            f"writes {names[0]!r}; give both the same tag"
        )
        return HandlerReport(findings=[Finding("other tag", text)])

    def _annotate(self, writer: Any, annotation: Annotation) -> None:
        self._trainable_fraction = None
        kind = annotation.kind.replace("_", " ")
        text = re.sub(r"([\\`*_\[\]])", r"\\\1", " ".join(annotation.text.split()))
        self._annotations.append(f"- **step {annotation.optimizer_step}**, epoch {annotation.epoch}, {kind}: {text}")
        latest_first = "\n".join(reversed(self._annotations[-_KEPT:]))
        write_text(writer, f"{self._prefix}annotations", latest_first, annotation.optimizer_step)

    def _write_scalars(self, engine: Engine) -> None:
        metrics: dict[str, Any] = engine.state.metrics
        if self._trainable_fraction is None:
            self._trainable_fraction = self._current_fraction(engine)
        norms = {name: metrics[self._prefix + name] for name in _NORMS if self._prefix + name in metrics}
        self._write(engine, self._norms, norms)
        self._write(engine, self._counts[_FRACTION], {_FRACTION: self._trainable_fraction})
        if _SKIPPED in metrics:
            self._write(engine, self._counts[_SKIPPED], {_SKIPPED: metrics[_SKIPPED]})

    def _current_fraction(self, engine: Engine) -> float:
        roles = roles_of(FreezesParameters, engine)
        frozen = [
            model for role in roles if role.counts_all_ranks and role.model and (model := role.model()) is not None
        ]
        if unwrap_model(self._model) in map(unwrap_model, frozen):
            fraction: float = engine.state.metrics[_FRACTION]  # rank 0 alone cannot ask the others
            return fraction
        return trainable_fraction(self._model)

    def _write(self, engine: Engine, scalars: ScalarWriter, values: dict[str, Any]) -> None:
        if values:
            step: int = engine.state.optimizer_step  # type: ignore[attr-defined]  # counted by OptimizerEvents
            tagged = {self._prefix + name: float(value) for name, value in values.items()}
            scalars.write(engine, OptimizerEvents.STEP_COMPLETED, step, tagged)

    def _forget_fraction(self, engine: Engine) -> None:
        self._trainable_fraction = None

    def _write_held(self, engine: Engine) -> None:
        for scalars in self._counts.values():
            scalars.flush()
