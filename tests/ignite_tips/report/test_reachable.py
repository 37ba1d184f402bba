"""Optimizers and models that no handler of ours knows, found from the functions that the trainer calls."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events, create_supervised_trainer
from ignite.handlers import PiecewiseLinear, TensorboardLogger
from torch import nn

import ignite_tips as tips
from ignite_tips.report.reachable import find_reachable

MODEL = nn.Linear(2, 1)
SGD = torch.optim.SGD(MODEL.parameters(), lr=0.1)


def _of_globals(engine: Engine, batch: Any) -> None:
    SGD.step()


def _by_a_function(engine: Engine, batch: Any) -> None:
    _of_globals(engine, batch)


def _by_an_inner_function(engine: Engine, batch: Any) -> None:
    def closure() -> None:
        SGD.zero_grad()

    closure()


def _of_arguments(optimizer: Any, engine: Engine, batch: Any, *, more: Any = None) -> None:
    """Use the arguments of functools.partial."""


class _Job:
    def __init__(self, optimizers: Any) -> None:
        self.optimizers = optimizers

    def update(self, engine: Engine, batch: Any) -> None:
        """Use an attribute."""


def _of_variables() -> Callable[..., Any]:
    optimizer = SGD
    return lambda engine, batch: optimizer.step()


UPDATES = {
    "a global name": _of_globals,
    "a global name of another function": _by_a_function,
    "a global name of an inner function": _by_an_inner_function,
    "a variable": _of_variables(),
    "an argument": functools.partial(_of_arguments, SGD),
    "a keyword": functools.partial(_of_arguments, None, more={"all": [SGD]}),
    "an attribute": _Job(SGD).update,
    "a list in an attribute": _Job([SGD]).update,
    "a dict in a tuple": _Job(({"main": SGD},)).update,
}


@pytest.mark.parametrize("update", UPDATES.values(), ids=UPDATES)
def test_what_an_update_function_refers_to(update: Any) -> None:
    """However it does so."""
    assert find_reachable(Engine(update)) == [SGD]


def test_what_handlers_refer_to() -> None:
    """The user's, Ignite's, and a log handler of ours, which Ignite calls."""
    trainer = Engine(lambda engine, batch: None)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: SGD.step())
    other = torch.optim.SGD(MODEL.parameters(), lr=0.1)
    trainer.add_event_handler(Events.ITERATION_STARTED, PiecewiseLinear(other, "lr", [(0, 0.1), (1, 0.2)]))
    logged = torch.optim.SGD(MODEL.parameters(), lr=0.1)
    logger: Any = TensorboardLogger.__new__(TensorboardLogger)
    logger.attach(trainer, tips.LearningRateLogger(logged), Events.EPOCH_COMPLETED)
    assert set(find_reachable(trainer)) == {SGD, other, logged}


def test_another_trainer_is_its_own_business() -> None:
    """Its handlers are recorded in the same places."""
    trainers = []
    for _ in range(2):
        model = nn.Linear(2, 1)
        optimizer = torch.optim.Adam(model.parameters())
        trainers.append(create_supervised_trainer(model, optimizer, nn.MSELoss()))
        tips.GradientNormClipper(optimizer, 1.0).attach(trainers[-1])
        tips.ParameterFreezer(model, "bias").attach(trainers[-1])
        tips.LearningRateLogger(optimizer).attach(trainers[-1])
    assert [len(tips.describe_trainer(trainer).optimizers) for trainer in trainers] == [1, 1]
    assert not set(find_reachable(trainers[0])) & set(find_reachable(trainers[1]))


def test_data_is_left_alone() -> None:
    """Tensors and arrays have no truth value, and none is asked for."""
    tensor, array, empty = torch.ones(2), np.ones(2), None

    def update(engine: Engine, batch: Any) -> Any:
        return tensor, array, empty, SGD

    assert find_reachable(Engine(update)) == [SGD]
    assert find_reachable(Engine(_Job([tensor, array, SGD]).update)) == [SGD]


def test_what_is_not_looked_into() -> None:
    """Another engine, whose optimizer is its own business, and data."""
    trainer = Engine(_Job({"other": Engine(_of_globals), "data": [SGD] * 1000}).update)
    assert find_reachable(trainer) == []


def test_a_variable_without_a_value() -> None:
    """Of a function whose trainer is asked before the variable is set."""

    def update(engine: Engine, batch: Any) -> None:
        optimizer.step()

    assert find_reachable(Engine(update)) == []
    optimizer = SGD
    assert find_reachable(Engine(update)) == [SGD]


def test_a_trainer_of_ignites_needs_no_handler() -> None:
    """Its optimizer, its model and what is wrong with them."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    trainer = create_supervised_trainer(model, torch.optim.Adam(model.parameters()), nn.MSELoss())
    report = tips.describe_trainer(trainer)
    assert [(optimizer.name, optimizer.updates) for optimizer in report.optimizers] == [("Adam", None)]
    assert [finding.kind for finding in report.findings] == ["useless bias"]


def test_a_model_that_is_only_used_is_not_described() -> None:
    """A loss may have a network, which no optimizer of the trainer trains."""
    network = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2))
    trainer = create_supervised_trainer(MODEL, SGD, lambda output, target: (network(output) - target).mean())
    assert tips.describe_trainer(trainer).findings == ()
    assert tips.describe_trainer(trainer, to_save={"t": trainer, "m": MODEL, "o": SGD}).findings == ()


def test_a_wrapper_of_a_known_optimizer_is_not_another_one() -> None:
    """Handlers have the inner one."""

    class _Wrapper(torch.optim.Optimizer):
        def __init__(self, inner: torch.optim.Optimizer) -> None:
            self.inner, self.param_groups = inner, inner.param_groups

    wrapper = _Wrapper(SGD)
    trainer = Engine(lambda engine, batch: wrapper.step())
    tips.GradientNormClipper(SGD, max_norm=1.0).attach(trainer)
    assert [optimizer.name for optimizer in tips.describe_trainer(trainer).optimizers] == ["SGD"]


def test_an_optimizer_that_finds_its_own_learning_rates() -> None:
    """Its groups have none."""
    own = torch.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.1)
    own.param_groups[0]["lr"] = None
    report = tips.describe_trainer(Engine(lambda engine, batch: own.step()))
    assert report.optimizers[0].groups[0].lr is None
    assert "?" in str(report)
    assert report.findings == ()


def test_a_schedule_without_a_handler_may_begin_at_0() -> None:
    """The update function steps it."""
    own = torch.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(own, lambda step: step / 10)
    trainer = Engine(lambda engine, batch: (own.step(), scheduler.step()))
    report = tips.describe_trainer(trainer)
    assert report.optimizers[0].groups[0].lr == 0
    assert report.findings == ()
