"""The warning that no gradient reaches what was unfrozen."""

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
    "ParameterFreezer unfroze body.0.weight, body.0.bias, body.1.weight, body.1.bias after iteration 4, but no "
    "gradient has reached them in an epoch, only other parameters; look for torch.no_grad() or detach() in the forward "
    "pass"
)
UNFREEZE = Events.EPOCH_STARTED(once=3)
MODES = ["no_grad", "detach"]


class _Net(nn.Module):
    """``mode`` says how its body runs, and ``layers`` how many of the body's layers do so."""

    def __init__(self, mode: str = "trains", layers: int = 2) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        self.head = nn.Linear(2, 1)
        self.mode, self.layers = mode, layers

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.mode != "no_grad"):
            features = self.body[: self.layers](x)
        features = features.detach() if self.mode == "detach" else features
        return self.head(self.body[self.layers :](features))


def _trainer(net: Any, *, per: int = 1, compiled: bool = False, **options: Any) -> Engine:
    """Return a trainer that makes an update every ``per`` iterations."""
    optimizer = torch.optim.SGD(net.parameters(), **{"lr": 0.1, **options})
    call = torch.compile(net, backend="aot_eager") if compiled else net

    def update(engine: Engine, batch: Tensor) -> None:
        call(batch).sum().backward()
        if engine.state.iteration % per == 0:
            optimizer.step()
            optimizer.zero_grad()

    return Engine(update)


def _run(trainer: Engine, epochs: int = 4) -> None:
    trainer.run([torch.ones(1, 2)] * 2, max_epochs=epochs)


def _found(trainer: Engine) -> list[str]:
    return [finding.text for finding in describe_trainer(trainer).findings if finding.kind == "no gradient"]


@pytest.mark.parametrize("options", [{}, {"per": 3}, {"compiled": True}], ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_a_body_without_a_gradient_is_named_once(mode: str, options: dict[str, Any]) -> None:
    """An epoch after it was unfrozen; the report says so, too, until a gradient comes."""
    net = _Net(mode)
    trainer = _trainer(net, **options)
    ParameterFreezer(net, "body.*").attach(trainer, unfreeze=UNFREEZE)
    with pytest.warns(UserWarning, match=f"^{WARNING}$") as caught:
        _run(trainer, 6)
    assert len(caught) == 1
    (text,) = _found(trainer)
    assert re.fullmatch(WARNING, text)
    net.mode = "trains"
    _run(trainer, 7)
    assert not _found(trainer)


def test_a_trainer_that_ends_each_epoch_early_is_warned() -> None:
    """Ignite then fires no EPOCH_COMPLETED."""
    net = _Net("detach")
    trainer = _trainer(net)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: engine.terminate_epoch())
    ParameterFreezer(net, "body.*").attach(trainer, unfreeze=UNFREEZE)
    with pytest.warns(UserWarning, match=r"^ParameterFreezer unfroze body\.0\.weight, .* after iteration 2, but no"):
        _run(trainer)


def test_each_stage_is_named() -> None:
    """Of a GradualUnfreezer's stages each that gets no gradient."""
    net = _Net("detach")
    trainer = _trainer(net)
    GradualUnfreezer(net, ["head.*", "body.1.*", "body.0.*"]).attach(trainer)
    with pytest.warns(UserWarning, match=r"^GradualUnfreezer unfroze body") as caught:
        _run(trainer)
    iterations = [re.findall(r"body\.\d|iteration \d", str(each.message)) for each in caught]
    assert iterations == [["body.1", "body.1", "iteration 2"], ["body.0", "body.0", "iteration 4"]]
    assert len(_found(trainer)) == 2


def test_a_part_without_a_gradient_is_only_in_the_report() -> None:
    """It may be meant, as with experts that no input was sent to."""
    net = _Net("no_grad", layers=1)
    trainer = _trainer(net)
    ParameterFreezer(net, "body.*").attach(trainer, unfreeze=UNFREEZE)
    _run(trainer)
    (text,) = _found(trainer)
    assert text.startswith("ParameterFreezer unfroze body.0.weight, body.0.bias after iteration 4, but no gradient has")


def _freeze_again(net: _Net, trainer: Engine) -> None:
    ParameterFreezer(net, "body.*").attach(
        trainer, freeze=Events.STARTED | Events.ITERATION_COMPLETED(once=5), unfreeze=UNFREEZE
    )


def _unfreeze_late(net: _Net, trainer: Engine) -> None:
    ParameterFreezer(net, "body.*").attach(trainer, unfreeze=Events.ITERATION_COMPLETED(once=7))


def _never_unfreeze(net: _Net, trainer: Engine) -> None:
    ParameterFreezer(net, "body.*").attach(trainer)


def _freeze_by_hand(net: _Net, trainer: Engine) -> None:
    net.body[0].requires_grad_(False)
    ParameterFreezer(net, "body.*").attach(trainer, unfreeze=UNFREEZE)
    net.mode = "trains"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("attach", [_freeze_again, _unfreeze_late, _never_unfreeze, _freeze_by_hand])
def test_what_had_no_chance_is_not_named(attach: Callable[[_Net, Engine], None], mode: str) -> None:
    """Frozen again, unfrozen for less than an epoch, never unfrozen, or frozen by hand."""
    net = _Net(mode)
    trainer = _trainer(net)
    attach(net, trainer)
    _run(trainer)
    assert not _found(trainer)


@pytest.mark.parametrize("options", [{"per": 3}, {"per": 16}, {"lr": 0.0}, {"fused": True}], ids=str)
def test_a_body_with_gradients_is_not_named(options: dict[str, Any]) -> None:
    """Whatever becomes of them: no update in an epoch, a learning rate of 0."""
    net = _Net()
    trainer = _trainer(net, **options)
    ParameterFreezer(net, "body.*").attach(trainer, unfreeze=UNFREEZE)
    _run(trainer)
    assert not _found(trainer)


def test_without_any_gradient_nothing_is_named() -> None:
    """As where gradients are set by hand: nothing tells whether the body has one."""
    net, trainer = _Net(), Engine(lambda engine, batch: None)
    ParameterFreezer(net, "body.*").attach(trainer, unfreeze=UNFREEZE)
    _run(trainer)
    assert not _found(trainer)


def _hooks(net: nn.Module) -> int:
    return sum(len(parameter._post_accumulate_grad_hooks or ()) for parameter in net.parameters())


@pytest.mark.parametrize("mode", ["trains", "detach"])
def test_no_hook_is_left(mode: str) -> None:
    """Not after the first iteration with a gradient, and in no copy; detaching removes the rest."""
    net = _Net(mode)
    trainer = _trainer(net)
    freezer = ParameterFreezer(net, "body.*").attach(trainer, unfreeze=UNFREEZE)
    seen: list[int] = []
    trainer.add_event_handler(Events.ITERATION_STARTED, lambda: seen.append(_hooks(net)))
    trainer.add_event_handler(Events.ITERATION_STARTED, lambda: seen.append(_hooks(copy.deepcopy(net))))
    trainer.add_event_handler(Events.ITERATION_STARTED(once=6), lambda: freezer.detach())
    _run(trainer)
    assert seen[:8] == [0] * 8
    assert seen[8:12] == [6, 0, 0 if mode == "trains" else 4, 0]
    assert not any(seen[12:])
