"""The warning that what was unfrozen does not train."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from ignite_tips import GradualUnfreezer, ParameterFreezer, describe_trainer

WARNING = re.escape(
    "ParameterFreezer unfroze body.* after iteration 4, but no update has changed it in an epoch, only other "
    "parameters; see that an optimizer has it, and that the forward pass does not run it under torch.no_grad(), "
    "detach its output, or replay a CUDA graph that was captured while it was frozen"
)
UNFREEZE = Events.EPOCH_STARTED(once=3)


class _Net(nn.Module):
    """Its body runs as ``mode`` says until ``repaired``."""

    def __init__(self, mode: str = "trains") -> None:
        super().__init__()
        self.body, self.head = nn.Linear(2, 2), nn.Linear(2, 1)
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.mode != "no_grad"):
            features = self.body(x)
        return self.head(features.detach() if self.mode == "detach" else features)


def _train(
    net: Any, *, per: int = 1, trained: Callable[[nn.Module], Any] = nn.Module.parameters, **options: Any
) -> Engine:
    """Train for four epochs of two iterations, with an update every ``per`` iterations."""
    optimizer = torch.optim.SGD(trained(net), lr=0.1, **options)

    def update(engine: Engine, batch: Tensor) -> None:
        net(batch).sum().backward()
        if engine.state.iteration % per == 0:
            optimizer.step()
            optimizer.zero_grad()

    return Engine(update)


def _run(trainer: Engine) -> None:
    trainer.run([torch.ones(1, 2)] * 2, max_epochs=4)


@pytest.mark.parametrize("options", [{"foreach": False}, {"foreach": True}, {"fused": True}], ids=str)
@pytest.mark.parametrize("mode", ["no_grad", "detach"])
def test_a_body_without_a_graph_is_named_once(mode: str, options: dict[str, Any]) -> None:
    """An epoch after it was unfrozen; the report says so, too. Without the fault there is no warning."""
    net = _Net(mode)
    trainer = _train(net, **options)
    freezer = ParameterFreezer(net, "body.*").attach(trainer, unfreeze=UNFREEZE)
    with pytest.warns(UserWarning, match=f"^{WARNING}$") as caught:
        _run(trainer)
    assert len(caught) == 1
    assert [finding.kind for finding in describe_trainer(trainer).findings if "unfroze" in finding.text] == [
        "no gradient"
    ]
    net.mode = "trains"
    _run(trainer)
    assert not [finding for finding in describe_trainer(trainer).findings if "unfroze" in finding.text]
    freezer.detach()


def test_a_body_in_no_optimizer_is_named() -> None:
    """``optimizer=`` would refuse it at attach."""
    net = _Net()
    trainer = _train(net, trained=lambda net: net.head.parameters())
    ParameterFreezer(net, "body.*").attach(trainer, unfreeze=UNFREEZE)
    with pytest.warns(UserWarning, match=WARNING):
        _run(trainer)


def test_each_stage_is_checked() -> None:
    """Of a GradualUnfreezer's stages the one that does not train is named."""
    net = _Net("detach")
    trainer = _train(net)
    GradualUnfreezer(net, ["head.*", "body.*"]).attach(trainer, every=2)
    with pytest.warns(UserWarning, match=r"^GradualUnfreezer unfroze body\.\* after iteration 4, but no update"):
        _run(trainer)


@pytest.mark.parametrize("per", [1, 3, 16])
def test_a_body_that_trains_is_not_named(per: int) -> None:
    """Neither is one without an update since: with accumulation one may take longer than an epoch."""
    net = _Net()
    trainer = _train(net, per=per)
    ParameterFreezer(net, "body.*").attach(trainer, unfreeze=UNFREEZE)
    _run(trainer)
    assert net.body.weight.requires_grad


def test_a_part_of_an_epoch_is_not_enough() -> None:
    """A body that was unfrozen within the last epoch may train in the next."""
    net = _Net("detach")
    trainer = _train(net)
    ParameterFreezer(net, "body.*").attach(trainer, unfreeze=Events.ITERATION_COMPLETED(once=7))
    _run(trainer)
    assert net.body.weight.requires_grad


def test_what_stays_frozen_is_not_named() -> None:
    """The head trains; nothing was unfrozen. A copy of the model does not matter either."""
    net = _Net()
    copy.deepcopy(net)
    trainer = _train(net)
    ParameterFreezer(net, "body.*").attach(trainer)
    _run(trainer)
    assert not net.body.weight.requires_grad
