"""A model outlives its trainers: what one has left frozen does not stand in the way of the next."""

import copy
import gc
import weakref

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from ignite_tips import GradualUnfreezer, ParameterFreezer, freeze_parameters


def _net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))


def _trainer(model: nn.Module) -> Engine:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def update(engine: Engine, batch: torch.Tensor) -> None:
        model.train()
        optimizer.zero_grad()
        model(batch).square().sum().backward()
        optimizer.step()

    return Engine(update)


DATA = [torch.randn(4, 2, generator=torch.Generator().manual_seed(0)) for _ in range(2)]


def _trains(model: nn.Module) -> list[bool]:
    return [parameter.requires_grad for parameter in model.parameters()]


@pytest.mark.parametrize("is_kept", [True, False])
@pytest.mark.parametrize("stopped", [KeyboardInterrupt, ValueError, None])
def test_the_freezer_of_a_new_trainer_takes_over(is_kept: bool, stopped: type[BaseException] | None) -> None:
    """Whether the earlier freezer is there or gone, and however its run ended while parameters were frozen."""
    model = _net()

    def run_first() -> ParameterFreezer:
        trainer = _trainer(model)
        freezer = ParameterFreezer(model, ["0.*", "1.*"]).attach(trainer)
        if stopped is None:
            trainer.run(DATA)
            return freezer

        def stop() -> None:
            raise stopped

        trainer.add_event_handler(Events.EPOCH_COMPLETED, stop)
        with pytest.raises(stopped):
            trainer.run(DATA)
        return freezer

    kept = run_first()
    assert _trains(model) == [False] * 4 + [True] * 2
    if not is_kept:
        del kept
        gc.collect()
    trainer = _trainer(model)
    second = ParameterFreezer(model, ["0.*", "1.*"])
    second.attach(trainer, freeze=Events.STARTED, unfreeze=Events.EPOCH_STARTED(once=2))
    assert _trains(model) == [True] * 6
    frozen_in_first_epoch = []
    trainer.add_event_handler(Events.EPOCH_COMPLETED(once=1), lambda: frozen_in_first_epoch.extend(second.frozen))
    mean = model[1].running_mean.clone()
    trainer.add_event_handler(Events.EPOCH_COMPLETED(once=1), lambda: mean.sub_(model[1].running_mean))
    trainer.run(DATA, max_epochs=2)
    assert len(frozen_in_first_epoch) == 4
    assert not mean.any()
    assert _trains(model) == [True] * 6
    assert model[1].training


def test_other_kinds_of_freezers_and_other_patterns_take_over() -> None:
    """A GradualUnfreezer over a part of what a ParameterFreezer left frozen; the rest trains too."""
    model = _net()
    trainer = _trainer(model)
    ParameterFreezer(model, "*.weight").attach(trainer)
    trainer.run(DATA)
    later = _trainer(model)
    unfreezer = GradualUnfreezer(model, ["2.*", "0.*"]).attach(later)
    later.run(DATA)
    assert unfreezer.frozen == ("0.weight", "0.bias")
    assert _trains(model) == [False, False, True, True, True, True]


def test_an_earlier_trainer_that_runs_again_takes_its_parameters_back() -> None:
    """It continues as if there had been no other, and its saved state says what it had frozen."""
    model = _net()
    first, second = _trainer(model), _trainer(model)
    freezer = ParameterFreezer(model, "0.*").attach(first, unfreeze=Events.EPOCH_STARTED(once=3))
    first.run(DATA)
    before = freezer.state_dict()
    ParameterFreezer(model, "2.*").attach(second)
    other = ParameterFreezer(model, "0.weight").attach(second)
    second.run(DATA)
    assert freezer.frozen == ()
    assert freezer.state_dict() == before
    assert before["frozen"]
    first.run(DATA, max_epochs=2)
    assert freezer.frozen == ("0.weight", "0.bias")
    assert other.frozen == ()
    first.run(DATA, max_epochs=3)
    assert freezer.frozen == ()
    assert _trains(model) == [True] * 4 + [False] * 2


def test_an_earlier_trainer_goes_on_frozen_where_its_counts_do_not_say_so() -> None:
    """With a filter of the user's own, only the handler knows that it froze in the earlier part of the run."""
    model = _net()
    first, second = _trainer(model), _trainer(model)
    event = Events.EPOCH_STARTED(event_filter=lambda engine, epoch: epoch == 1)
    freezer = ParameterFreezer(model, "0.*").attach(first, freeze=event)
    first.run(DATA)
    ParameterFreezer(model, "0.*").attach(second)
    second.run(DATA)
    assert freezer.frozen == ()
    first.run(DATA, max_epochs=2)
    assert freezer.frozen == ("0.weight", "0.bias")


def test_what_was_frozen_by_hand_stays_frozen() -> None:
    """Only a handler's freeze ends with its run."""
    model = _net()
    freeze_parameters(model, "0.weight")
    model[0].bias.requires_grad_(False)
    for _ in range(2):
        trainer = _trainer(model)
        ParameterFreezer(model, "0.*").attach(trainer, unfreeze=Events.EPOCH_STARTED(once=2))
        with pytest.warns(UserWarning, match="found 0.\\* frozen already"):
            trainer.run(DATA, max_epochs=2)
    assert _trains(model)[:2] == [False, False]


def test_another_model_is_left_alone_and_none_is_kept_alive() -> None:
    """A copy has its own parameters, and the record of what is frozen does not keep a model."""
    model = _net()
    trainer = _trainer(model)
    ParameterFreezer(model, "0.*").attach(trainer)
    trainer.run(DATA)
    duplicate = copy.deepcopy(model)
    ParameterFreezer(duplicate, "0.*").attach(_trainer(duplicate))
    assert _trains(model)[:2] == [False, False]
    reference = weakref.ref(model)
    del model, trainer
    gc.collect()
    assert reference() is None
