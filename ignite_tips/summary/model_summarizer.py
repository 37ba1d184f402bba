"""Show a summary of the model once, before training."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal, Self

import ignite.distributed as idist
from ignite.engine import Engine, Events
from ignite.handlers import TensorboardLogger
from torch import nn
from torch.optim import Optimizer

from ignite_tips._checks import check_callable, check_instance, check_integer
from ignite_tips._warnings import warn_user
from ignite_tips.core.handler import Handler
from ignite_tips.core.roles import Role
from ignite_tips.core.wiring import Attachment, add_role
from ignite_tips.parameters.sharding import lay_out_shards
from ignite_tips.summary.model import check_request, summarize_model
from ignite_tips.summary.table import ModelSummary
from ignite_tips.tensorboard.summary_writer import write_text

__all__ = ["ModelSummarizer"]


def _first_of_batch(batch: Any) -> Any:
    return batch[0] if isinstance(batch, tuple | list) else batch


class ModelSummarizer(Handler):
    """Shows a table of the model's layers before the first batch is trained on; rank 0 prints it.

    Acts on the first ITERATION_STARTED after ``attach``: the batch is available, and handlers that freeze parameters at
    the start of the run have done so. The model does not change (see ``summarize_model``). Every rank runs the model,
    because some models only run on all ranks together. If the summary fails, a warning says why and the run goes on;
    a model of ``fully_shard`` does not survive that, so that its run ends with the error.

    Args:
        model: any module, in any wrapper.
        input_size: the input's size, batch included, or a list of several; None uses the trainer's first batch.
        example: an example input, instead of ``input_size``.
        keywords: keyword arguments of the call.
        input_of_batch: a function that returns the model's input from a batch; by default ``x`` of ``(x, y)``. Not
            together with ``input_size`` or ``example``.
        optimizer: if given, each layer shows its param group and learning rate.
        backend: ``"torchinfo"`` or ``"torchsummary"`` for that library's own table.
        depth: show layers nested in at most this many modules, ≥ 1; None shows all.
        output: a function that is called with the text.

    Attributes:
        summary: the ModelSummary, on every rank, after the first batch has arrived; None if the model could not be
            summarized.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is not as above, or the optimizer has none of the model's parameters.

    State saved: none.

    Example:
        >>> model = nn.Linear(8, 2)
        >>> trainer = Engine(lambda engine, batch: model(batch[0]))
        >>> summarizer = ModelSummarizer(model, output=lambda text: None).attach(trainer)
        >>> _ = trainer.run([(torch.ones(4, 8), torch.ones(4))])
        >>> summarizer.summary.total_parameters
        18
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        input_size: Iterable[Any] | None = None,
        example: Any = None,
        keywords: Mapping[str, Any] | None = None,
        input_of_batch: Callable[[Any], Any] = _first_of_batch,
        optimizer: Optimizer | None = None,
        backend: Literal["torchinfo", "torchsummary"] | None = None,
        depth: int | None = 3,
        output: Callable[[str], None] = print,
    ) -> None:
        check_request(model, example, keywords=keywords, input_size=input_size, optimizer=optimizer, backend=backend)
        self._takes_batch = input_size is None and example is None and not keywords
        check_callable("input_of_batch", input_of_batch, "a function of the batch")
        if input_of_batch is not _first_of_batch and not self._takes_batch:
            raise ValueError("input_of_batch must be left out if another input is given, got a function")
        if depth is not None:
            depth = check_integer("depth", depth, ge=1)
        check_callable("output", output, "a function of the text")
        self._summarize = partial(
            summarize_model,
            model,
            keywords=keywords,
            input_size=input_size,
            optimizer=optimizer,
            backend=backend,
            depth=depth,
        )
        self._model = model
        self._example = example
        self._input_of_batch = input_of_batch
        self._depth = depth
        self._output = output
        self._attachment = Attachment(type(self).__name__)
        self._is_due = False
        self.summary: ModelSummary | None = None

    def attach(self, trainer: Engine, tb_logger: TensorboardLogger | None = None) -> Self:
        """Show the summary when ``trainer`` has its first batch, and write it to the Text tab of ``tb_logger``."""
        check_instance("trainer", trainer, Engine, "an ignite Engine")
        check_instance("tb_logger", tb_logger, (TensorboardLogger, type(None)), "an ignite TensorboardLogger or None")
        with self._attachment.renew(self):
            self.summary, self._is_due = None, True
            self._attachment.add_undo(add_role(trainer, Role(self, Events.ITERATION_STARTED, model=self._model)))
            self._attachment.add_handler(trainer, Events.ITERATION_STARTED, partial(self._show, tb_logger=tb_logger))
        return self

    def detach(self) -> None:
        """Show nothing in later runs; ``summary`` is kept."""
        self._attachment.clear()

    def _show(self, engine: Engine, tb_logger: TensorboardLogger | None) -> None:
        if not self._is_due:
            return
        self._is_due = False
        try:
            example = self._input_of_batch(engine.state.batch) if self._takes_batch else self._example
            self.summary = self._summarize(example)
        except Exception as error:  # a table is not worth a run
            if lay_out_shards(self._model):  # fully_shard does not survive an error in a forward pass
                raise
            warn_user(f"ModelSummarizer shows no summary: {type(error).__name__}: {error}")
            return
        if idist.get_rank() > 0:
            return
        self._output(str(self.summary))
        if tb_logger is not None:
            # The number of completed iterations: this one is just starting.
            write_text(tb_logger.writer, "model", self.summary.markdown(depth=self._depth), engine.state.iteration - 1)
