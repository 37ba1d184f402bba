"""Show what the model is, once, before it is trained."""

from collections.abc import Callable
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from ignite.handlers import TensorboardLogger
from torch import nn
from torch.optim import Optimizer

from ignite_tips._checks import check_instance
from ignite_tips.attachment import Attachment
from ignite_tips.event_writing import write_text
from ignite_tips.summary import summarize_model
from ignite_tips.summary_table import ModelSummary

__all__ = ["ModelSummarizer"]


class ModelSummarizer:
    """Prints a table of the model's layers before the first batch is trained on, and writes it to TensorBoard."""

    def __init__(
        self,
        model: nn.Module,
        *,
        input_size: tuple[int, ...] | None = None,
        optimizer: Optimizer | None = None,
        output: Callable[[str], None] = print,
    ) -> None:
        check_instance("model", model, nn.Module, "a torch.nn.Module")
        self._model = model
        self._input_size = input_size
        self._optimizer = optimizer
        self._output = output
        self._attachment = Attachment()
        self.summary: ModelSummary | None = None

    def attach(self, trainer: Engine, tb_logger: TensorboardLogger | None = None) -> None:
        """Summarise the model at the first iteration of ``trainer``."""
        self._tb_logger = tb_logger
        with self._attachment.renew():
            self._attachment.add_handler(trainer, Events.ITERATION_STARTED, self._summarize)

    def detach(self) -> None:
        """Summarise no more."""
        self._attachment.clear()

    def _summarize(self, engine: Engine) -> None:
        if self.summary is not None:
            return
        batch: Any = engine.state.batch
        example = None if self._input_size is not None else batch[0] if isinstance(batch, tuple | list) else batch
        self.summary = summarize_model(self._model, example, input_size=self._input_size, optimizer=self._optimizer)
        if idist.get_rank() == 0:
            self._output(str(self.summary))
            if self._tb_logger is not None:
                text = "\n".join(f"    {line}" for line in str(self.summary).splitlines())
                write_text(self._tb_logger.writer, "model", text, engine.state.iteration)
