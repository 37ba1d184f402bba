"""Freezing of models that other code has changed: layers frozen by hand, replaced, parametrized, or still lazy."""

import re
from collections.abc import Callable

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from ignite_tips import GradualUnfreezer, ParameterFreezer


def _net() -> nn.Sequential:
    return nn.Sequential(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), nn.Linear(3, 1))


def _trainer() -> Engine:
    trainer = Engine(lambda engine, batch: None)
    trainer.logger.disabled = True
    return trainer


def test_what_the_user_froze_needs_no_group() -> None:
    """As the base of a LoRA layer, which stays frozen."""
    net, trainer = _net(), _trainer()
    net[0][0].requires_grad_(False)
    optimizer = torch.optim.SGD(net[0][1].parameters())
    ParameterFreezer(net, "0.*", optimizer=optimizer).attach(trainer, unfreeze=Events.EPOCH_STARTED(once=2))
    trainer.run(range(1), max_epochs=2)
    assert [parameter.requires_grad for parameter in net[0].parameters()] == [False, False, True, True]


def test_what_a_handler_froze_needs_a_group() -> None:
    """That of an earlier trainer, for example: it will train."""
    net, trainer = _net(), _trainer()
    ParameterFreezer(net, "0.0.*").attach(trainer)
    trainer.run(range(1))
    optimizer = torch.optim.SGD([*net[0][1].parameters(), *net[1].parameters()])
    with pytest.raises(ValueError, match=r"but has none for: 0\.0\.weight, 0\.0\.bias; make every group up front"):
        GradualUnfreezer(net, ["1.*", "0.*"], optimizer=optimizer)


def _replace_a_layer(net: nn.Sequential) -> None:
    net[0] = nn.Sequential(nn.Sequential(nn.Linear(2, 3)), nn.BatchNorm1d(3))


def _parametrize_a_layer(net: nn.Sequential) -> None:
    nn.utils.parametrizations.weight_norm(net[0][0])


@pytest.mark.parametrize("change", [_replace_a_layer, _parametrize_a_layer])
@pytest.mark.parametrize("steps_before", [0, 1, 2])
def test_a_parameter_that_is_gone_is_named(change: Callable[[nn.Sequential], None], steps_before: int) -> None:
    """Changed before the attachment, after it, or while frozen: by the next step that needs it. A new handler works."""
    net, trainer = _net(), _trainer()
    freezer = ParameterFreezer(net, "0.*")
    steps = [lambda: freezer.attach(trainer), lambda: trainer.run(range(1)), freezer.detach]
    for step in steps[:steps_before]:
        step()
    change(net)
    sentence = (
        "model must have the parameters that it had when the freezing handler was made, but no longer has 0.0.weight"
    )
    with pytest.raises(
        RuntimeError, match=f"^{re.escape(sentence)}.*; make the handler after all changes to the model$"
    ):
        steps[steps_before]()
    again, trainer = ParameterFreezer(net, "0.*"), _trainer()
    again.attach(trainer)
    trainer.run(range(1))
    assert not any(parameter.requires_grad for parameter in net[0].parameters())


def test_a_lazy_layer_counts_once_it_has_a_shape() -> None:
    """Its number of values is unknown before its first forward pass."""
    net = nn.Sequential(nn.Linear(2, 3), nn.LazyLinear(1))
    trainer = Engine(lambda engine, batch: net(torch.ones(1, 2)).sum())
    ParameterFreezer(net, "0.*").attach(trainer, freeze=Events.STARTED | Events.EPOCH_STARTED(once=3))
    ParameterFreezer(net, "1.bias").attach(trainer, freeze=Events.EPOCH_STARTED(once=2))
    seen: list[float] = []
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.append(trainer.state.metrics["trainable_fraction"]))
    trainer.run(range(1), max_epochs=2)
    assert seen == [0.0, 3 / 13]
