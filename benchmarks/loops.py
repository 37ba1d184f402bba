"""Runs in several frameworks that only make updates with given gradients, so a tip's cost is visible.

Each function returns a run of ``steps`` updates that can be called repeatedly. The group ``bench`` installs the peers.
"""

import logging
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["Loop", "Still", "groups_of", "in_accelerate", "in_ignite", "in_lightning", "one_epoch", "parameters_of"]

Loop = Callable[[], object]
Calls = Iterable[Callable[[], object]]
Attach = Callable[[Engine], object] | None


class Still(Optimizer):
    """An optimizer whose update does nothing, so it does not hide the cost of what happens around it."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})

    def step(self, closure: Any = None) -> None:
        """Do nothing."""


def parameters_of(sizes: Iterable[int | tuple[int, ...]], device: str = "cpu") -> list[torch.nn.Parameter]:
    """Return parameters of these sizes or shapes, each with a gradient; the same in every call."""
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter((torch.randn(size) * 0.01).to(device)) for size in sizes]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    return parameters


def groups_of(count: int) -> list[dict[str, Any]]:
    """Return ``count`` named param groups with one small parameter each, without gradients."""
    return [{"params": [torch.nn.Parameter(torch.ones(1))], "name": f"block{index}"} for index in range(count)]


def in_ignite(
    optimizer: Optimizer,
    steps: int,
    *,
    before: Calls = (),
    after: Calls = (),
    attach: Attach = None,
) -> Loop:
    """A trainer whose update makes the calls ``before``, ``optimizer.step()`` and the calls ``after``."""
    before, after = tuple(before), tuple(after)

    def update(trainer: Engine, batch: Any) -> None:
        for call in before:
            call()
        optimizer.step()
        for call in after:
            call()

    trainer = Engine(update)
    if attach is not None:
        attach(trainer)
    data = range(steps)
    return lambda: trainer.run(data)


def one_epoch(optimizer: Optimizer, steps: int, *, before: Calls = (), attach: Attach = None) -> Callable[[], float]:
    """As ``in_ignite``, but the run returns the seconds of its epoch only, without what happens once at its start."""
    stamps: list[float] = []

    def stamp() -> None:
        stamps.append(time.perf_counter())

    def prepare(trainer: Engine) -> None:
        trainer.add_event_handler(Events.EPOCH_COMPLETED, stamp)
        if attach is not None:
            attach(trainer)
        trainer.add_event_handler(Events.EPOCH_STARTED, stamp)

    run = in_ignite(optimizer, steps, before=before, attach=prepare)

    def timed() -> float:
        stamps.clear()
        run()
        return stamps[1] - stamps[0]

    return timed


def in_lightning(
    optimizer: Optimizer, steps: int, *, before: Calls = (), scheduler: Any = None, **options: Any
) -> Loop:
    """A Lightning trainer with these options; its training step makes the calls ``before``."""
    import lightning.pytorch as pl

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")  # about the number of workers and the few steps
    before = tuple(before)
    loss = torch.zeros(())

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            weights = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            self.weights = torch.nn.ParameterList(weights)
            self.gradients = [parameter.grad for parameter in weights]

        def on_train_start(self) -> None:
            for parameter, gradient in zip(self.weights, self.gradients, strict=True):  # fit() removed them
                parameter.grad = gradient

        def training_step(self, batch: Any, index: int) -> Tensor:
            for call in before:
                call()
            return loss

        def backward(self, loss: Tensor) -> None:
            """Do nothing: the gradients exist already."""

        def optimizer_zero_grad(self, *_: Any) -> None:
            """Do nothing: keep the gradients."""

        def configure_optimizers(self) -> Any:
            if scheduler is None:
                return optimizer
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    quiet = {"enable_progress_bar": False, "enable_checkpointing": False, "enable_model_summary": False}
    accelerator = "cpu" if optimizer.param_groups[0]["params"][0].is_cpu else "gpu"
    trainer = pl.Trainer(accelerator=accelerator, devices=1, max_epochs=0, **({"logger": False} | quiet | options))
    module = Module()
    loader = torch.utils.data.DataLoader(range(steps), batch_size=None)  # type: ignore[arg-type]  # a range will do

    def run() -> None:
        trainer.fit_loop.max_epochs += 1
        trainer.fit(module, loader)

    return run


def in_accelerate(
    optimizer: Optimizer, steps: int, *, before: Calls = (), max_norm: float | None = None, scheduler: Any = None
) -> Loop:
    """The loop that Accelerate's users write, with clipping and scheduling on request."""
    from accelerate import Accelerator

    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    accelerator = Accelerator(cpu=parameters[0].is_cpu)
    prepared = accelerator.prepare(optimizer)
    after = [] if scheduler is None else [accelerator.prepare(scheduler).step]
    if max_norm is not None:
        before = (*before, lambda: accelerator.clip_grad_norm_(parameters, max_norm))

    def run() -> None:
        for _ in range(steps):
            for call in before:
                call()
            prepared.step()
            for call in after:
                call()

    return run
