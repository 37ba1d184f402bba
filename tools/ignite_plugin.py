"""A pytest plug-in that attaches handlers to every engine, to run Ignite's own test suite with them.

In a checkout of Ignite's release, for instance:

    python -m pytest -p tools.ignite_plugin tests/ignite/engine

Each engine gets optimizer events, a clipper with an infinite threshold and a learning rate logger, for an optimizer of
one frozen parameter that nothing steps. Each trainer of ``create_supervised_trainer`` gets them for its own optimizer
too. A test may fail only because it counts an engine's handlers, events or state attributes.
"""

import functools
import math
import tempfile
from typing import Any

import ignite.engine
import torch
from ignite.engine import Engine
from ignite.handlers.tensorboard_logger import TensorboardLogger
from torch import nn
from torch.optim import Optimizer

from ignite_tips import GradientNormClipper, LearningRateLogger, attach_optimizer_events

attached = 0  # how many times handlers were attached


def _attach(engine: Engine, optimizer: Optimizer, tag: str) -> None:
    global attached
    attach_optimizer_events(engine, optimizer)
    GradientNormClipper(optimizer, math.inf, on_nonfinite="propagate", tag=tag).attach(engine)
    LearningRateLogger(optimizer, tag=tag).attach(engine, _logger())
    attached += 1


@functools.cache
def _logger() -> TensorboardLogger:
    return TensorboardLogger(tempfile.mkdtemp(prefix="ignite-suite-"))


def _attach_to_every_engine() -> None:
    make_engine, make_trainer = Engine.__init__, ignite.engine.create_supervised_trainer

    @functools.wraps(make_engine)
    def init(self: Engine, *args: Any, **kwargs: Any) -> None:
        make_engine(self, *args, **kwargs)
        _attach(self, torch.optim.SGD([nn.Parameter(torch.zeros(1), requires_grad=False)], lr=0.1), "spare")

    @functools.wraps(make_trainer)
    def create(model: nn.Module, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Engine:
        trainer = make_trainer(model, optimizer, *args, **kwargs)
        if isinstance(optimizer, Optimizer):  # not a mock
            _attach(trainer, optimizer, "own")
        return trainer

    Engine.__init__ = init  # type: ignore[method-assign]
    ignite.engine.create_supervised_trainer = create


def pytest_configure() -> None:
    """Attach from here on: test modules are imported later."""
    _attach_to_every_engine()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how often handlers were attached."""
    terminalreporter.write_line(f"handlers attached to {attached} engines and optimizers")
