"""Optimizer events against hand-written loops: when they fire, with which gradients, and what they count."""

import contextlib
import copy
import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events, create_supervised_trainer
from ignite.handlers import Checkpoint, DiskSaver
from torch import nn
from torch.amp.grad_scaler import GradScaler

from ignite_tips.core.events import (
    OptimizerEvents,
    attach_optimizer_events,
    completed_updates,
    current_step,
    detach_optimizer_events,
    for_optimizer,
)
from ignite_tips.core.wiring import Attachment, observes_only, runs_last
from tests.settings import seeded

BATCHES = [(torch.randn(4, 3), torch.randn(4, 2)) for _ in range(6)]


def _model() -> nn.Module:
    torch.manual_seed(seeded(1))
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def _sgd(model: nn.Module, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, **options)


def _trainer(accumulation: int = 1) -> tuple[Engine, nn.Module, torch.optim.Optimizer]:
    model = _model()
    optimizer = _sgd(model)
    trainer = create_supervised_trainer(model, optimizer, nn.MSELoss(), gradient_accumulation_steps=accumulation)
    attach_optimizer_events(trainer, optimizer)
    return trainer, model, optimizer


def _gradients(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def _equal(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_events_fire_where_the_module_docstring_shows_them() -> None:
    """With two micro-batches per update, both events fire between the second iteration's start and end."""
    trainer, _, _ = _trainer(accumulation=2)
    fired: list[str] = []
    for event in (
        Events.ITERATION_STARTED,
        OptimizerEvents.STEP_STARTED,
        OptimizerEvents.STEP_COMPLETED,
        Events.ITERATION_COMPLETED,
    ):
        trainer.add_event_handler(event, lambda name: fired.append(name), event.name)
    trainer.run(BATCHES[:2])
    assert fired == [
        "ITERATION_STARTED",
        "ITERATION_COMPLETED",
        "ITERATION_STARTED",
        "STEP_STARTED",
        "STEP_COMPLETED",
        "ITERATION_COMPLETED",
    ]


@pytest.mark.parametrize("accumulation", [1, 3])
def test_gradients_are_final_and_accumulated_at_step_started(accumulation: int) -> None:
    """A handler sees the same gradients as a hand-written loop before its optimizer.step()."""
    trainer, model, _ = _trainer(accumulation)
    seen: list[list[torch.Tensor]] = []
    trainer.add_event_handler(OptimizerEvents.STEP_STARTED, lambda: seen.append(_gradients(model)))
    trainer.run(BATCHES)

    reference = _model()
    optimizer = _sgd(reference)
    expected = []
    for index, (x, y) in enumerate(BATCHES):
        if index % accumulation == 0:
            optimizer.zero_grad()
        (nn.MSELoss()(reference(x), y) / accumulation).backward()
        if (index + 1) % accumulation == 0:
            expected.append(_gradients(reference))
            optimizer.step()
    assert len(seen) == 6 // accumulation
    assert all(_equal(a, b) for a, b in zip(seen, expected, strict=True))
    assert _equal(list(model.parameters()), list(reference.parameters()))


def _run_scaled(fused: bool, unscale: bool, observe: bool) -> dict[str, Any]:
    """Make five updates under GradScaler, the third with an infinite loss; return what handlers saw and the weights."""
    model = _model()
    optimizer = _sgd(model, fused=fused)
    scaler = GradScaler("cpu", init_scale=1024.0)
    seen: list[list[torch.Tensor]] = []
    steps: list[int] = []

    def update(engine: Engine, batch: Any) -> None:
        optimizer.zero_grad()
        loss = nn.MSELoss()(model(batch[0]), batch[1])
        if engine.state.iteration == 3:
            loss = loss * float("inf")
        scaler.scale(loss).backward()
        if unscale:
            scaler.unscale_(optimizer)
        if not observe and engine.state.iteration != 3:
            seen.append(_gradients(model))
        scaler.step(optimizer)
        scaler.update()

    trainer = Engine(update)
    if observe:
        attach_optimizer_events(trainer, optimizer)
        trainer.add_event_handler(OptimizerEvents.STEP_STARTED, lambda: seen.append(_gradients(model)))
        trainer.add_event_handler(
            OptimizerEvents.STEP_COMPLETED, lambda engine: steps.append(engine.state.optimizer_step)
        )
    trainer.run(BATCHES[:5])
    attributes = {name for name in ("grad_scale", "found_inf") if hasattr(optimizer, name)}
    return {"seen": seen, "steps": steps, "end": list(model.parameters()), "attributes": attributes}


@pytest.mark.parametrize("unscale", [False, True], ids=["step alone", "user unscales"])
@pytest.mark.parametrize("fused", [False, True], ids=["ordinary", "fused"])
def test_under_gradscaler_gradients_are_unscaled_and_a_skip_is_silent(fused: bool, unscale: bool) -> None:
    """Handlers see unscaled gradients; a skipped update fires nothing; the weights equal the plain loop's."""
    observed = _run_scaled(fused, unscale, observe=True)
    bare = _run_scaled(fused, unscale, observe=False)
    by_hand = _run_scaled(fused, unscale=True, observe=False)
    assert observed["steps"] == [1, 2, 3, 4]
    assert len(observed["seen"]) == 4
    # The scale is a power of two, so dividing by it is exact.
    assert all(_equal(a, b) for a, b in zip(observed["seen"], by_hand["seen"], strict=True))
    assert _equal(observed["end"], bare["end"])
    assert observed["attributes"] == set()


def test_events_take_filters() -> None:
    """every=, once= and event_filter= count updates from 1, equally in both events."""
    trainer, _, _ = _trainer()
    fired: dict[str, list[int]] = {"every": [], "once": [], "filter": [], "both": []}

    def note(engine: Engine, name: str) -> None:
        fired[name].append(engine.state.optimizer_step)

    trainer.add_event_handler(OptimizerEvents.STEP_STARTED(every=2), note, "every")
    trainer.add_event_handler(OptimizerEvents.STEP_COMPLETED(once=[1, 4]), note, "once")
    trainer.add_event_handler(OptimizerEvents.STEP_STARTED(event_filter=lambda engine, step: step > 4), note, "filter")
    trainer.add_event_handler(
        OptimizerEvents.STEP_STARTED(once=5) | OptimizerEvents.STEP_COMPLETED(once=5), note, "both"
    )
    trainer.run(BATCHES)
    assert fired == {"every": [2, 4, 6], "once": [1, 4], "filter": [5, 6], "both": [5, 5]}


def _two_optimizer_trainer() -> tuple[Engine, torch.optim.Optimizer, torch.optim.Optimizer]:
    """The first optimizer makes an update in every iteration, the second in every third."""
    first, second = (torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1) for _ in range(2))

    def update(engine: Engine, batch: Any) -> None:
        first.step()
        if engine.state.iteration % 3 == 0:
            second.step()

    trainer = Engine(update)
    attach_optimizer_events(trainer, first)
    attach_optimizer_events(trainer, second)
    return trainer, first, second


def test_several_optimizers_are_told_apart() -> None:
    """for_optimizer() restricts an event to one optimizer, whose own updates every= and once= count."""
    trainer, first, second = _two_optimizer_trainer()
    own: dict[str, list[int]] = {"first": [], "second": [], "second, every 2": [], "listed": []}

    def note(engine: Engine, name: str) -> None:
        own[name].append(current_step(engine).number)

    completed = OptimizerEvents.STEP_COMPLETED
    trainer.add_event_handler(for_optimizer(first, completed), note, "first")
    trainer.add_event_handler(for_optimizer(second, completed), note, "second")
    trainer.add_event_handler(for_optimizer(second, completed(every=2)), note, "second, every 2")
    trainer.add_event_handler(for_optimizer(second, OptimizerEvents.STEP_STARTED | completed(once=1)), note, "listed")
    trainer.run(range(6))
    assert own == {"first": [1, 2, 3, 4, 5, 6], "second": [1, 2], "second, every 2": [2], "listed": [1, 1, 2]}
    assert trainer.state.optimizer_step == 8
    assert trainer.state.optimizer_steps == [6, 2]


def test_completed_updates_are_counted_for_each_optimizer() -> None:
    """completed_updates() returns each optimizer's own updates in the run."""
    trainer, first, second = _two_optimizer_trainer()
    trainer.run(range(4), max_epochs=1)
    assert [completed_updates(trainer, optimizer) for optimizer in (first, second)] == trainer.state.optimizer_steps
    assert sum(trainer.state.optimizer_steps) == trainer.state.optimizer_step > 0


def test_counts_are_saved_restored_and_reset(tmp_path: Path) -> None:
    """A resumed trainer continues to count, from a file read with weights_only; a new run starts at zero."""
    trainer, _, _ = _two_optimizer_trainer()
    trainer.run(range(6))
    saver = Checkpoint({"trainer": trainer}, DiskSaver(str(tmp_path), require_empty=False))
    saver(trainer)
    state = torch.load(tmp_path / str(saver.last_checkpoint), weights_only=True)

    resumed, first, _ = _two_optimizer_trainer()
    Checkpoint.load_objects({"trainer": resumed}, {"trainer": state} if "trainer" not in state else state)
    fired: list[tuple[int, int]] = []
    resumed.add_event_handler(
        for_optimizer(first, OptimizerEvents.STEP_COMPLETED),
        lambda engine: fired.append((engine.state.optimizer_step, current_step(engine).number)),
    )
    resumed.run(range(6), max_epochs=2)
    assert fired[0] == (9, 7)
    assert resumed.state.optimizer_steps == [12, 4]

    resumed.run(range(6), max_epochs=1) if resumed.state.max_epochs is None else None
    resumed.state.max_epochs = None
    resumed.run(range(3), max_epochs=1, epoch_length=3)
    assert (resumed.state.optimizer_step, resumed.state.optimizer_steps) == (4, [3, 1])


def test_a_loaded_state_of_other_optimizers_is_refused() -> None:
    """Counts of two optimizers do not fit one: the run raises at its start."""
    trainer, _, _ = _two_optimizer_trainer()
    trainer.run(range(6))
    other, _, _ = _trainer()
    other.load_state_dict(trainer.state_dict())
    with pytest.raises(RuntimeError, match="must count the updates of 1 optimizers, got 2"):
        other.run(BATCHES, max_epochs=2)


def test_a_state_loaded_too_early_is_refused() -> None:
    """Ignite loads only the keys it knows at that time; counting from zero would be a silent error."""
    trainer, _, _ = _trainer()
    trainer.run(BATCHES)
    model = _model()
    optimizer = _sgd(model)
    early = create_supervised_trainer(model, optimizer, nn.MSELoss())
    early.load_state_dict(trainer.state_dict())
    with pytest.raises(RuntimeError, match="loaded after its handlers are attached, but it is at iteration 6 already"):
        attach_optimizer_events(early, optimizer)


@pytest.mark.parametrize(
    ("state", "iteration"),
    [
        ({"epoch": 1, "max_epochs": 3, "epoch_length": 6}, 6),
        ({"iteration": 8, "max_epochs": 3, "epoch_length": 6}, 8),
        (None, 6),
    ],
    ids=["as Ignite documents", "within an epoch", "of a trainer without handlers"],
)
def test_a_state_from_before_the_handlers_loads(state: dict[str, Any] | None, iteration: int) -> None:
    """The counts are not known and start from 0, with a warning, unless they are set after loading, as it says."""
    if state is None:
        model = _model()
        bare = create_supervised_trainer(model, _sgd(model), nn.MSELoss())
        bare.run(BATCHES)
        state = {**bare.state_dict(), "max_epochs": 3}
    for known in (0, iteration):
        trainer, _, _ = _trainer()
        with pytest.warns(UserWarning, match=f"so they start from 0 at iteration {iteration}; if you know them, set"):
            trainer.load_state_dict(state)
        if known:
            trainer.state.optimizer_step, trainer.state.optimizer_steps = known, [known]
        trainer.run(BATCHES)
        assert trainer.state.epoch == 3
        assert (trainer.state.optimizer_step, trainer.state.optimizer_steps) == (n := 18 - iteration + known, [n])


def test_a_state_of_a_new_run_loads_without_a_warning() -> None:
    """Before the first iteration there is no update to count."""
    trainer, _, _ = _trainer()
    trainer.load_state_dict({"epoch": 0, "max_epochs": 1, "epoch_length": 6})
    trainer.run(BATCHES)
    assert trainer.state.optimizer_step == 6


def test_what_ignite_refuses_to_load_is_refused_in_its_words() -> None:
    """Only our own keys may be missing."""
    trainer, _, _ = _trainer()
    trainer.state_dict_user_keys.append("alpha")
    with pytest.raises(ValueError, match="Required user state attribute 'alpha' is absent"):
        trainer.load_state_dict({"epoch": 1, "max_epochs": 3, "epoch_length": 6})
    with pytest.raises(TypeError, match="Argument state_dict should be a dictionary"):
        trainer.load_state_dict([1])  # type: ignore[arg-type]


def test_a_terminated_run_continues_to_count() -> None:
    """run() after terminate() continues where it stopped, and so do the counts."""
    trainer, _, _ = _trainer()
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=4), lambda engine: engine.terminate())
    trainer.run(BATCHES, max_epochs=2)
    assert trainer.state.optimizer_step == 4
    trainer.run(BATCHES, max_epochs=2)
    assert trainer.state.optimizer_step == trainer.state.iteration == 10


def test_attaching_again_changes_nothing() -> None:
    """After two calls of attach_optimizer_events each event still fires once per update."""
    trainer, _, optimizer = _trainer()
    attach_optimizer_events(trainer, optimizer)
    fired: list[int] = []
    trainer.add_event_handler(OptimizerEvents.STEP_STARTED, lambda: fired.append(1))
    trainer.run(BATCHES)
    assert len(fired) == trainer.state.optimizer_step == 6


def test_detaching_leaves_everything_as_before() -> None:
    """No hook, handler or key of the saved state remains; the trainer still runs, without events."""
    trainer, _, optimizer = _trainer()
    bare = create_supervised_trainer(_model(), optimizer, nn.MSELoss())
    detach_optimizer_events(trainer, optimizer)
    detach_optimizer_events(trainer, optimizer)
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert trainer.state_dict().keys() == bare.state_dict().keys()
    assert "load_state_dict" not in vars(trainer)
    assert not any(trainer._event_handlers.values())
    fired: list[int] = []
    trainer.add_event_handler(OptimizerEvents.STEP_STARTED, lambda: fired.append(1))
    trainer.run(BATCHES)
    assert fired == []


def test_attaching_an_optimizer_again_continues_its_count() -> None:
    """Whether it was the first, the second or the only one; no count is left over."""
    for attached in ([0], [0, 1]):
        for again in attached:
            optimizers = [torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1) for _ in attached]
            trainer = Engine(
                lambda engine, batch, optimizers=optimizers: [optimizer.step() for optimizer in optimizers]
            )
            for optimizer in optimizers:
                attach_optimizer_events(trainer, optimizer)
            for event, act in ((1, detach_optimizer_events), (2, attach_optimizer_events)):
                trainer.add_event_handler(Events.EPOCH_COMPLETED(once=event), act, optimizers[again])
            trainer.run(range(3), max_epochs=3)
            counts = [6 if index == again else 9 for index in attached]
            assert trainer.state_dict()["optimizer_steps"] == counts
            assert trainer.state.optimizer_step == sum(counts)


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_replaced_optimizer_leaves_no_count(is_kept: bool) -> None:
    """A new process, which has only the new one, takes up the saved counts."""
    optimizers = [torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)]
    trainer = Engine(lambda engine, batch: optimizers[-1].step())
    attach_optimizer_events(trainer, optimizers[0])

    @trainer.on(Events.EPOCH_COMPLETED(once=1))
    def replace(engine: Engine) -> None:
        detach_optimizer_events(engine, optimizers[0])
        optimizers.append(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1))
        if not is_kept:
            del optimizers[0]
        attach_optimizer_events(engine, optimizers[-1])

    trainer.run(range(3), max_epochs=3)
    assert trainer.state_dict()["optimizer_steps"] == [6]


def test_events_that_a_handler_needs_stay_when_the_user_detaches() -> None:
    """The events are removed with their last user: the user's own attach, or any handler's."""
    trainer, _, optimizer = _trainer()
    fired: list[int] = []
    attachment = Attachment()
    attachment.add_step_handler(trainer, optimizer, OptimizerEvents.STEP_STARTED, lambda engine: fired.append(1))
    detach_optimizer_events(trainer, optimizer)
    trainer.run(BATCHES[:1])
    assert fired == [1]
    attachment.clear()
    assert not optimizer._optimizer_step_pre_hooks


def test_a_skipped_update_changes_nothing() -> None:
    """skip() keeps weights, momentum and gradients, counts nothing and calls no later handler."""
    trainer, model, optimizer = _trainer()
    after: list[int] = []
    completed: list[int] = []

    def skip_the_third(engine: Engine) -> None:
        if engine.state.iteration == 3:
            current_step(engine).skip()

    trainer.add_event_handler(OptimizerEvents.STEP_STARTED, skip_the_third)
    trainer.add_event_handler(OptimizerEvents.STEP_STARTED, lambda engine: after.append(engine.state.iteration))
    trainer.add_event_handler(
        OptimizerEvents.STEP_COMPLETED, lambda engine: completed.append(engine.state.optimizer_step)
    )
    trainer.run(BATCHES[:4])

    reference = _model()
    other = _sgd(reference)
    for index, (x, y) in enumerate(BATCHES[:4]):
        other.zero_grad()
        nn.MSELoss()(reference(x), y).backward()
        if index != 2:
            other.step()
    assert _equal(list(model.parameters()), list(reference.parameters()))
    assert _equal(_gradients(model), _gradients(reference))
    momenta, expected = ([state["momentum_buffer"] for state in sgd.state.values()] for sgd in (optimizer, other))
    assert _equal(momenta, expected)
    assert after == [1, 2, 4]
    assert completed == [1, 2, 3]


def test_before_update_calls_back_after_all_handlers() -> None:
    """The function sees what a later handler changed, and is not called if a handler skips the update."""
    trainer, _, optimizer = _trainer()
    seen: list[float] = []

    def look(engine: Engine) -> None:
        current_step(engine).before_update(lambda: seen.append(optimizer.param_groups[0]["lr"]))

    def change(engine: Engine) -> None:
        optimizer.param_groups[0]["lr"] = float(engine.state.iteration)
        if engine.state.iteration == 2:
            current_step(engine).skip()

    trainer.add_event_handler(OptimizerEvents.STEP_STARTED, look)
    trainer.add_event_handler(OptimizerEvents.STEP_STARTED, change)
    trainer.run(BATCHES[:3])
    assert seen == [1.0, 3.0]


def test_a_folded_factor_holds_for_one_update() -> None:
    """A fused kernel divides by grad_scale once; afterwards the optimizer has neither attribute."""
    model, reference = _model(), _model()
    optimizer, other = _sgd(model, fused=True), _sgd(reference, fused=True)
    trainer = create_supervised_trainer(model, optimizer, nn.MSELoss())
    attach_optimizer_events(trainer, optimizer)
    trainer.add_event_handler(
        OptimizerEvents.STEP_STARTED(once=1),
        lambda engine: current_step(engine).fold(grad_scale=torch.tensor(4.0), found_inf=torch.tensor(0.0)),
    )
    trainer.run(BATCHES[:2])
    for factor, (x, y) in zip((0.25, 1.0), BATCHES, strict=False):
        other.zero_grad()
        nn.MSELoss()(reference(x), y).backward()
        for parameter in reference.parameters():
            parameter.grad.mul_(factor)
        other.step()
    assert _equal(list(model.parameters()), list(reference.parameters()))
    assert not hasattr(optimizer, "grad_scale")
    assert not hasattr(optimizer, "found_inf")


@pytest.mark.parametrize("as_keyword", [False, True])
def test_a_closure_that_is_evaluated_once_is_right(as_keyword: bool) -> None:
    """The event fires after the closure has computed the gradients, and a handler may change them."""
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.5)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (weight**2).sum()
        loss.backward()
        return loss

    def update(engine: Engine, batch: Any) -> float:
        return (optimizer.step(closure=closure) if as_keyword else optimizer.step(closure)).item()

    trainer = Engine(update)
    attach_optimizer_events(trainer, optimizer)
    seen: list[float] = []

    def halve(engine: Engine) -> None:
        seen.append(weight.grad.item())
        weight.grad.mul_(0.5)

    trainer.add_event_handler(OptimizerEvents.STEP_STARTED, halve)
    trainer.run(range(2))
    assert seen == [2.0, 1.0]
    assert weight.item() == 0.25
    assert trainer.state.optimizer_step == 2


def test_optimizers_that_evaluate_a_closure_again_are_refused() -> None:
    """LBFGS is refused when attached, any other such optimizer at the second evaluation."""
    weight = nn.Parameter(torch.ones(1))
    trainer = Engine(lambda engine, batch: None)
    with pytest.raises(TypeError, match="optimizer must compute its gradients once in an update, got LBFGS"):
        attach_optimizer_events(trainer, torch.optim.LBFGS([weight]))

    class Twice(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            closure()
            return closure()

    optimizer = Twice([weight], lr=0.1)
    trainer = Engine(lambda engine, batch: optimizer.step(lambda: weight.sum()))
    attach_optimizer_events(trainer, optimizer)
    with pytest.raises(RuntimeError, match="evaluated once in an update with OptimizerEvents, but Twice evaluated"):
        trainer.run(range(1))


def test_updates_outside_the_run_fire_nothing() -> None:
    """An optimizer shared by two trainers fires the events of the running trainer only."""
    first, model, optimizer = _trainer()
    second = create_supervised_trainer(model, optimizer, nn.MSELoss())
    attach_optimizer_events(second, optimizer)
    first.run(BATCHES[:2])
    second.run(BATCHES[:3])
    optimizer.step()
    assert (first.state.optimizer_step, second.state.optimizer_step) == (2, 3)


def test_a_run_that_raised_is_over() -> None:
    """It no longer sees the updates of the next trainer with the same optimizer; a new run fires again."""
    failed, model, optimizer = _trainer()
    failed.logger.disabled = True  # Ignite logs the error too
    with pytest.raises(TypeError, match="linear"):
        failed.run([*BATCHES[:2], ("no tensor", BATCHES[0][1])])
    assert failed.state.optimizer_step == 2
    create_supervised_trainer(model, optimizer, nn.MSELoss()).run(BATCHES[:3])
    assert failed.state.optimizer_step == 2
    failed.state.max_epochs = None
    assert failed.run(BATCHES[:4]).optimizer_step == 4


def test_a_step_by_hand_while_the_run_is_interrupted_is_not_counted() -> None:
    """The run is resumed with the counts that it had."""
    trainer, _, optimizer = _trainer()
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=2), trainer.interrupt)
    trainer.run(BATCHES)
    optimizer.step()
    assert trainer.state.optimizer_steps == [2]
    trainer.run(BATCHES)
    assert trainer.state.optimizer_steps == [6]


@pytest.mark.parametrize("event", [Events.COMPLETED, Events.TERMINATE])
def test_a_run_that_is_about_to_end_takes_no_part_in_the_next(event: Events, tmp_path: Path) -> None:
    """If its last events start the next phase with the same optimizer, also after a Checkpoint acted on them."""
    first, model, optimizer = _trainer()
    second = create_supervised_trainer(model, optimizer, nn.MSELoss())
    first.add_event_handler(Events.EPOCH_COMPLETED, lambda: first.terminate())
    first.add_event_handler(event, Checkpoint({"model": model}, DiskSaver(str(tmp_path))))
    first.add_event_handler(event, lambda: second.run(BATCHES))
    first.run(BATCHES, max_epochs=2)
    assert second.state.iteration == first.state.optimizer_step == 6


IGNITES_EVENTS = [
    Events.STARTED,
    Events.EPOCH_STARTED,
    Events.DATALOADER_STOP_ITERATION,
    Events.GET_BATCH_COMPLETED,
    Events.ITERATION_STARTED,
    Events.ITERATION_COMPLETED,
    Events.EPOCH_COMPLETED,
]


@pytest.mark.parametrize("event", IGNITES_EVENTS, ids=lambda event: event.name)
def test_an_update_in_an_event_handler_leaves_the_last_event_as_it_was(event: Events) -> None:
    """Ignite itself goes by it, and Checkpoint names its files by it."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)

    def events(is_attached: bool) -> list[Any]:
        trainer, seen = Engine(lambda engine, batch: None), []
        if is_attached:
            attach_optimizer_events(trainer, optimizer)
            for moment in OptimizerEvents:
                trainer.add_event_handler(moment, lambda: None)
        trainer.add_event_handler(event, lambda: optimizer.step())
        for other in IGNITES_EVENTS:
            trainer.add_event_handler(other, lambda engine: seen.append(engine.last_event_name))
        trainer.run([0, 0], max_epochs=2)
        return seen

    assert events(is_attached=True) == events(is_attached=False)


def test_a_handler_that_raises_within_an_update_leaves_the_last_event_as_it_was() -> None:
    """An update function may catch the error and go on."""
    trainer, _, _ = _trainer()
    trainer.logger.disabled = True

    @trainer.on(OptimizerEvents.STEP_STARTED)
    def refuse(engine: Engine) -> None:
        raise KeyError("no")

    with pytest.raises(KeyError):
        trainer.run(BATCHES)
    assert trainer.last_event_name == Events.ITERATION_STARTED


def test_an_update_in_an_event_handler_fires() -> None:
    """If a handler makes the update, as in reinforcement learning, the events fire there."""
    model = _model()
    optimizer = _sgd(model)
    trainer = Engine(lambda engine, batch: model(batch[0]).sum().backward())
    attach_optimizer_events(trainer, optimizer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: optimizer.step())
    fired: list[int] = []
    trainer.add_event_handler(OptimizerEvents.STEP_COMPLETED, lambda engine: fired.append(engine.state.epoch))
    trainer.run(BATCHES, max_epochs=2)
    assert fired == [1, 2]


def test_an_update_that_raises_does_not_affect_the_next() -> None:
    """If the update function catches an error inside step(), nothing of that update is left."""

    class Fragile(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            if trainer.state.iteration == 1:
                raise MemoryError("no room for this batch")
            return super().step(closure)

    model, reference = _model(), _model()
    optimizer, other = Fragile(model.parameters(), lr=0.1, fused=True), _sgd(reference, fused=True)
    other.param_groups[0]["momentum"] = 0

    def update(engine: Engine, batch: Any) -> None:
        optimizer.zero_grad()
        nn.MSELoss()(model(batch[0]), batch[1]).backward()
        with contextlib.suppress(MemoryError):
            optimizer.step()

    trainer = Engine(update)
    attach_optimizer_events(trainer, optimizer)
    fired: list[int] = []

    def fold_once(engine: Engine) -> None:
        fired.append(engine.state.iteration)
        if engine.state.iteration == 1:
            current_step(engine).fold(grad_scale=torch.tensor(4.0), found_inf=torch.tensor(0.0))

    trainer.add_event_handler(OptimizerEvents.STEP_STARTED, fold_once)
    trainer.run(BATCHES[:2])
    nn.MSELoss()(reference(BATCHES[1][0]), BATCHES[1][1]).backward()
    other.step()
    assert fired == [1, 2]
    assert trainer.state.optimizer_step == 1
    assert _equal(list(model.parameters()), list(reference.parameters()))


def test_a_subclass_that_calls_its_base_class_fires_once() -> None:
    """Torch runs the hooks twice if both classes' steps are hooked; the events still fire once per update."""

    class Derived(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)

    model = _model()
    torch.optim.SGD(model.parameters(), lr=0.1)  # creating one hooks the base class's step()
    optimizer = Derived(model.parameters(), lr=0.1)
    hooked: list[int] = []
    optimizer.register_step_pre_hook(lambda *_: hooked.append(1))
    trainer = create_supervised_trainer(model, optimizer, nn.MSELoss())
    attach_optimizer_events(trainer, optimizer)
    fired: list[str] = []
    trainer.add_event_handler(OptimizerEvents.STEP_STARTED, lambda: fired.append("started"))
    trainer.add_event_handler(OptimizerEvents.STEP_COMPLETED, lambda: fired.append("completed"))
    trainer.run(BATCHES[:2])
    assert len(hooked) == 4
    assert fired == ["started", "completed"] * 2


def test_no_engine_is_kept_alive() -> None:
    """An optimizer that outlives its trainer does not keep it alive, and still steps."""
    trainer, _, optimizer = _trainer()
    trainer.run(BATCHES)
    gone = weakref.ref(trainer)
    del trainer
    gc.collect()
    assert gone() is None
    optimizer.step()


def test_a_copied_optimizer_has_no_hooks() -> None:
    """A deepcopy of an attached optimizer fires no events."""
    trainer, _, optimizer = _trainer()
    duplicate = copy.deepcopy(optimizer)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: duplicate.step())
    trainer.run(BATCHES)
    assert trainer.state.optimizer_step == 6


def test_bad_arguments_are_refused() -> None:
    """Each error names the argument and the value."""
    trainer, _, optimizer = _trainer()
    with pytest.raises(TypeError, match=r"engine must be an ignite Engine, got 3 \(int\)"):
        attach_optimizer_events(3, optimizer)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="optimizer must be a torch Optimizer, got None"):
        attach_optimizer_events(trainer, None)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match=r"current_step\(\) must be called in a handler of OptimizerEvents"):
        current_step(trainer)


@pytest.mark.parametrize("looks", [True, False])
def test_runs_last_ignores_observers(looks: bool) -> None:
    """runs_last() ignores handlers marked by observes_only(), and no others."""
    trainer, _, optimizer = _trainer()
    attachment = Attachment()

    def act(engine: Engine) -> None:
        """Stand for a clipper."""

    def look(engine: Engine) -> None:
        """Stand for a logger."""

    attachment.add_step_handler(trainer, optimizer, OptimizerEvents.STEP_STARTED, act)
    attachment.add_step_handler(
        trainer, optimizer, OptimizerEvents.STEP_STARTED, observes_only(look) if looks else look
    )
    assert runs_last(trainer, optimizer, act) == looks


@pytest.mark.parametrize(
    "event", [OptimizerEvents.STEP_STARTED, OptimizerEvents.STEP_STARTED(every=2), OptimizerEvents.STEP_STARTED(once=1)]
)
def test_ignites_error_for_an_unattached_event_names_the_remedy(event: Any) -> None:
    """Ignite's sentence has the event's text in it; after the remedy the event is known."""
    trainer = Engine(lambda engine, batch: None)
    with pytest.raises(ValueError, match=r"needs attach_optimizer_events\(engine, optimizer\) first, is not a valid"):
        trainer.add_event_handler(event, print)
    attach_optimizer_events(trainer, torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1))
    trainer.add_event_handler(event, print)
