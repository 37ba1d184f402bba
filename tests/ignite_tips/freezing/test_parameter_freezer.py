"""ParameterFreezer against hand-written loops: frozen is bit-equal, unfrozen is as it was, resumed is as never left."""

import gc
import io
import random
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Engine, EventEnum, Events, create_supervised_trainer
from ignite.handlers import Checkpoint
from torch import nn

from ignite_tips.core.events import OptimizerEvents
from ignite_tips.core.wiring import on_annotation
from ignite_tips.freezing.parameter_freezer import ParameterFreezer
from tests.settings import seeded

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.1),
    "fused sgd": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.1, fused=True),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1),
    "fused adamw": lambda groups: torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1, fused=True),
}
STATE_KEYS = ("model", "optimizer", "trainer", "freezer")


def make_net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seeded(seed))
    body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 6), nn.BatchNorm1d(6))
    return nn.Sequential(body, nn.ReLU(), nn.Linear(6, 2))


def make_batches(count: int = 5, seed: int = 1) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seeded(seed))
    return [(torch.randn(8, 4, generator=generator), torch.randn(8, 2, generator=generator)) for _ in range(count)]


def make_trainer(net: nn.Module, optimizer: torch.optim.Optimizer) -> Engine:
    return create_supervised_trainer(net, optimizer, nn.functional.mse_loss)


def snapshot(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first | second)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_weights_and_statistics_stay_bit_equal(name: str) -> None:
    """Neither momentum, weight decay nor model.train() in each iteration moves what is frozen."""
    net = make_net()
    optimizer = OPTIMIZERS[name](net.parameters())
    trainer = make_trainer(net, optimizer)
    freezer = ParameterFreezer(net, "0.*", optimizer=optimizer)
    freezer.attach(trainer, freeze=Events.EPOCH_STARTED(once=2), unfreeze=Events.EPOCH_STARTED(once=4))
    bodies, heads = [], []
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: bodies.append(snapshot(net[0])))
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: heads.append(snapshot(net[2])))
    trainer.run(make_batches(), max_epochs=4)
    assert same(bodies[0], bodies[1])
    assert same(bodies[1], bodies[2])
    assert not same(bodies[2], bodies[3])
    assert not same(heads[1], heads[2])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_equals_the_hand_written_loop(name: str) -> None:
    """Events give the weights, statistics and optimizer state of the loop that does it by hand."""
    net, by_hand = make_net(), make_net()
    optimizer, hand_optimizer = OPTIMIZERS[name](net.parameters()), OPTIMIZERS[name](by_hand.parameters())
    trainer = make_trainer(net, optimizer)
    ParameterFreezer(net, "0.*").attach(
        trainer, freeze=Events.ITERATION_STARTED(once=4), unfreeze=Events.ITERATION_STARTED(once=9)
    )
    trainer.run(make_batches(), max_epochs=3)
    batches = make_batches() * 3
    for number, (x, y) in enumerate(batches, start=1):
        by_hand.train()
        for parameter in by_hand[0].parameters():
            parameter.requires_grad_(not 4 <= number < 9)
        for module in by_hand[0]:
            if isinstance(module, nn.BatchNorm1d):
                module.train(not 4 <= number < 9)
        hand_optimizer.zero_grad()
        nn.functional.mse_loss(by_hand(x), y).backward()
        hand_optimizer.step()
    assert same(net.state_dict(), by_hand.state_dict())
    for mine, theirs in zip(optimizer.state.values(), hand_optimizer.state.values(), strict=True):
        assert all(torch.equal(torch.as_tensor(mine[key]), torch.as_tensor(theirs[key])) for key in mine)


class OwnEvents(EventEnum):
    """An event of the user's, which Ignite does not count."""

    SOMETHING = "something"


class Run:
    """A training run that can be saved and resumed in new objects."""

    def __init__(self, freeze: Any, unfreeze: Any, checkpoint_first: bool = False, save_at: Any = None) -> None:
        self.net = make_net()
        self.optimizer = OPTIMIZERS["sgd"](self.net.parameters())
        self.trainer = make_trainer(self.net, self.optimizer)
        self.trainer.register_events(*OwnEvents)
        self.freezer = ParameterFreezer(self.net, "0.*", optimizer=self.optimizer)
        self.saved: dict[int, bytes] = {}
        if checkpoint_first and save_at is not None:
            self.trainer.add_event_handler(save_at, self.save)
        self.freezer.attach(self.trainer, freeze=freeze, unfreeze=unfreeze)
        if not checkpoint_first and save_at is not None:
            self.trainer.add_event_handler(save_at, self.save)

    def objects(self) -> dict[str, Any]:
        return dict(zip(STATE_KEYS, (self.net, self.optimizer, self.trainer, self.freezer), strict=True))

    def save(self) -> None:
        buffer = io.BytesIO()
        torch.save({name: thing.state_dict() for name, thing in self.objects().items()}, buffer)
        self.saved[self.trainer.state.iteration] = buffer.getvalue()

    def load(self, data: bytes, with_freezer: bool = True) -> "Run":
        state = torch.load(io.BytesIO(data), weights_only=True)
        objects = self.objects()
        if not with_freezer:
            del objects["freezer"], state["freezer"]
        Checkpoint.load_objects(objects, state)
        return self

    def run(self, max_epochs: int = 4) -> "Run":
        self.trainer.run(_Resumable(make_batches(), self.trainer.state.iteration % 5), max_epochs=max_epochs)
        return self


class _Resumable:
    """Batches whose first pass starts in the middle, as a resumed run's must."""

    def __init__(self, batches: list[Any], start: int) -> None:
        self.batches, self.start = batches, start

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        start, self.start = self.start, 0
        return iter(self.batches[start:])


EVENTS: dict[str, tuple[Any, Any]] = {
    "from the start": (Events.STARTED, Events.EPOCH_STARTED(once=3)),
    "at epoch ends": (Events.EPOCH_COMPLETED(once=1), Events.EPOCH_COMPLETED(once=3)),
    "at iterations": (Events.ITERATION_STARTED(once=7), Events.ITERATION_COMPLETED(once=12)),
    "often": (Events.EPOCH_STARTED(every=2), Events.EPOCH_STARTED(every=3) | Events.ITERATION_COMPLETED(once=8)),
    "crossing": (Events.ITERATION_STARTED(once=13), Events.EPOCH_STARTED(once=3)),
    "at updates": (OptimizerEvents.STEP_COMPLETED(once=6), OptimizerEvents.STEP_STARTED(once=12)),
}


@pytest.mark.parametrize("with_freezer", [False, True])
@pytest.mark.parametrize("checkpoint_first", [False, True])
@pytest.mark.parametrize("save_at", [Events.ITERATION_COMPLETED, Events.EPOCH_COMPLETED])
@pytest.mark.parametrize("name", EVENTS)
def test_a_run_resumed_at_any_point_ends_as_if_never_left(
    name: str, save_at: Any, checkpoint_first: bool, with_freezer: bool
) -> None:
    """Whatever the point, before or after the freezer's handler, with its state or without, the end is the same."""
    freeze, unfreeze = EVENTS[name]
    whole = Run(freeze, unfreeze, checkpoint_first, save_at).run()
    assert whole.saved
    for iteration, data in whole.saved.items():
        if iteration < 20:
            resumed = Run(freeze, unfreeze).load(data, with_freezer).run()
            assert same(resumed.net.state_dict(), whole.net.state_dict()), iteration
            assert resumed.freezer.frozen == whole.freezer.frozen


WITH_STATE_ALONE: dict[str, tuple[Any, Any]] = {
    "a filter of the user's": (
        Events.EPOCH_STARTED(event_filter=lambda _, k: k == 2),
        Events.ITERATION_COMPLETED(event_filter=lambda _, k: k == 13),
    ),
    "iterations and updates": (Events.ITERATION_STARTED(once=4), OptimizerEvents.STEP_COMPLETED(once=11)),
    "epochs and updates": (OptimizerEvents.STEP_STARTED(once=3), Events.EPOCH_COMPLETED(once=2)),
}


@pytest.mark.parametrize("name", WITH_STATE_ALONE)
def test_what_the_counts_do_not_tell_is_in_the_state(name: str) -> None:
    """A user's filter, and iterations against updates, are resumed at any point with the handler's state."""
    freeze, unfreeze = WITH_STATE_ALONE[name]
    whole = Run(freeze, unfreeze, False, Events.ITERATION_COMPLETED).run()
    for iteration, data in whole.saved.items():
        if iteration < 20:
            resumed = Run(freeze, unfreeze).load(data).run()
            assert same(resumed.net.state_dict(), whole.net.state_dict()), iteration


def test_a_run_continued_in_the_same_process_needs_no_loading() -> None:
    """run() up to epoch 2 and again up to 4 equals one run, and does not freeze anew at the second start."""
    freeze, unfreeze = Events.STARTED, Events.EPOCH_STARTED(once=2)
    whole, halves = Run(freeze, unfreeze).run(4), Run(freeze, unfreeze).run(2)
    halves.run(4)
    assert same(whole.net.state_dict(), halves.net.state_dict())


def test_a_new_run_begins_unfrozen_and_acts_again() -> None:
    """A second run from iteration 0 sees its own events, not what the first left behind."""
    run = Run(Events.EPOCH_STARTED(once=2), Events.EPOCH_STARTED(once=4))
    seen: list[bool] = []
    run.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.append(bool(run.freezer.frozen)))
    run.run(2)
    run.trainer.state.max_epochs = None
    run.run(4)
    assert seen == [False, True, False, True, True, False]


def _note(freezer: ParameterFreezer, found: list[bool]) -> None:
    found.append(bool(freezer.frozen))


@pytest.mark.parametrize("seed", range(20))
def test_what_is_frozen_is_a_function_of_the_counts(seed: int) -> None:
    """Of random events with Ignite's own filters, what a resume from each iteration finds is what the whole run had."""
    draw = random.Random(seeded(seed))

    def event() -> Any:
        kind = draw.choice([Events.EPOCH_STARTED, Events.EPOCH_COMPLETED, Events.ITERATION_STARTED])
        kind = draw.choice([kind, Events.ITERATION_COMPLETED, Events.GET_BATCH_COMPLETED])
        first = draw.randint(1, 8)
        filters = [{"every": first}, {"once": first}, {"once": [first, first + 2]}, {"before": first, "after": 1}]
        return kind(**draw.choice([*filters, {"after": first}]))

    freeze, unfreeze = event() | event(), event()
    frozen: dict[int, bool] = {}

    def make() -> tuple[Engine, ParameterFreezer]:
        trainer = Engine(lambda engine, batch: None)
        freezer = ParameterFreezer(nn.Linear(1, 1), "*").attach(trainer, freeze=freeze, unfreeze=unfreeze)
        trainer.add_event_handler(
            Events.ITERATION_COMPLETED | Events.EPOCH_COMPLETED,
            lambda engine: frozen.__setitem__(engine.state.iteration, bool(freezer.frozen)),
        )
        return trainer, freezer

    trainer, _ = make()
    trainer.run(range(3), max_epochs=4)
    expected = dict(frozen)
    for iteration in range(1, 12):
        trainer, freezer = make()
        found: list[bool] = []
        trainer.add_event_handler(Events.STARTED, _note, freezer, found)
        trainer.load_state_dict({"iteration": iteration, "epoch_length": 3, "max_epochs": 4})
        frozen.clear()
        trainer.run(range(3), max_epochs=4)
        assert found == [expected[iteration]], iteration
        assert {k: v for k, v in expected.items() if k > iteration} == frozen


@pytest.mark.parametrize(
    ("freeze", "unfreeze", "message"),
    [
        (Events.EPOCH_COMPLETED(event_filter=lambda _, k: k == 9), None, "has a filter that cannot be asked about"),
        (
            Events.EPOCH_STARTED(once=2),
            OptimizerEvents.STEP_COMPLETED(once=7),
            "=EPOCH_STARTED and unfreeze=STEP_COMPLETED both lie in the past of iteration 10, and the counts of iter",
        ),
        (
            OwnEvents.SOMETHING,
            None,
            "freeze=SOMETHING has no count in the trainer's state, which therefore",
        ),
    ],
)
def test_a_resume_without_the_state_is_an_error_where_it_matters(freeze: Any, unfreeze: Any, message: str) -> None:
    """What only a user's filter or an event without a count knows of is no guess but an error."""
    saved = Run(freeze, unfreeze, save_at=Events.EPOCH_COMPLETED).run().saved[10]
    with pytest.raises(RuntimeError, match=message):
        Run(freeze, unfreeze).load(saved, with_freezer=False).run()


@pytest.mark.parametrize(
    ("freeze", "unfreeze"),
    [
        (Events.EPOCH_COMPLETED(event_filter=lambda _, k: k == 2), Events.ITERATION_STARTED(once=17)),
        (Events.ITERATION_STARTED(once=2), OptimizerEvents.STEP_STARTED(once=7)),
    ],
)
def test_a_resume_without_the_state_is_fine_where_it_does_not_matter(freeze: Any, unfreeze: Any) -> None:
    """If what the counts do not tell lies ahead, there is nothing to restore."""
    whole = Run(freeze, unfreeze, save_at=Events.ITERATION_COMPLETED).run()
    resumed = Run(freeze, unfreeze).load(whole.saved[4], with_freezer=False).run()
    assert same(resumed.net.state_dict(), whole.net.state_dict())


def test_states_that_do_not_fit_are_errors() -> None:
    """The state of other parameters, other events or another iteration is refused."""
    saved = torch.load(
        io.BytesIO(Run(Events.STARTED, None, save_at=Events.EPOCH_COMPLETED).run().saved[10]), weights_only=True
    )
    freezer = ParameterFreezer(make_net(), "2.*")
    with pytest.raises(
        ValueError, match=r"of the parameters that its patterns select, 2\.weight, 2\.bias, got 0\.0\.weig"
    ):
        freezer.load_state_dict(saved["freezer"])
    with pytest.raises(ValueError, match="must have the keys frozen, iteration, names, seen, got frozen"):
        freezer.load_state_dict({"frozen": True})
    run = Run(Events.STARTED, None)
    run.freezer.load_state_dict(saved["freezer"])
    with pytest.raises(RuntimeError, match="state is of iteration 10, but the trainer starts from iteration 0; load"):
        run.run()
    other = Run(Events.STARTED, Events.EPOCH_STARTED(once=3))
    Checkpoint.load_objects(other.objects(), saved)
    with pytest.raises(RuntimeError, match="is of the events 0: freeze=STARTED, but attached are 0: freeze=STARTED, 1"):
        other.run()


def test_what_is_frozen_is_told() -> None:
    """Names, share and notices say what happens, at the moment it does."""
    run = Run(Events.STARTED, Events.EPOCH_STARTED(once=2))
    heard: list[tuple[int, str, str]] = []
    on_annotation(run.trainer, lambda engine, notice: heard.append((notice.epoch, notice.kind, notice.text)))
    shares: list[float] = []
    run.trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: shares.append(engine.state.metrics["trainable_fraction"])
    )
    assert run.freezer.frozen == ()
    run.run(2)
    assert shares == [14 / 110, 1.0]
    assert heard == [
        (0, "freeze", "0.*; 12.7% of the parameters train"),
        (2, "unfreeze", "0.*; 100.0% of the parameters train"),
    ]


def test_a_resumed_run_is_not_told_again() -> None:
    """What was frozen in the run that is resumed is frozen again without a notice; what follows has its own."""
    first = Run(Events.STARTED, Events.EPOCH_STARTED(once=3))
    first.run(1)
    saved = {name: thing.state_dict() for name, thing in first.objects().items()}
    resumed = Run(Events.STARTED, Events.EPOCH_STARTED(once=3))
    Checkpoint.load_objects(resumed.objects(), saved)
    heard: list[tuple[int, str]] = []
    on_annotation(resumed.trainer, lambda engine, notice: heard.append((notice.epoch, notice.kind)))
    shares: list[float] = []
    resumed.trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: shares.append(engine.state.metrics["trainable_fraction"])
    )
    resumed.run(3)
    assert heard == [(3, "unfreeze")]
    assert shares == [14 / 110, 1.0]


def test_overlapping_freezers_are_refused_until_one_is_detached() -> None:
    """Two attached freezers must not share a parameter, in whatever module it is."""
    net, trainer = make_net(), Engine(lambda engine, batch: None)
    first, second = ParameterFreezer(net, "0.*"), ParameterFreezer(net, "*.bias")
    first.attach(trainer)
    with pytest.raises(ValueError, match=r"'0\.0\.bias' must be frozen by one handler, but an attached Param"):
        second.attach(trainer)
    with pytest.raises(ValueError, match="must be frozen by one handler"):
        ParameterFreezer(net[0], "1.weight").attach(trainer)
    first.detach()
    second.attach(trainer)
    trainer.run(range(1))
    assert second.frozen == ("0.0.bias", "0.1.bias", "0.3.bias", "0.4.bias", "2.bias")


def test_attaching_again_acts_once_and_detach_puts_all_back() -> None:
    """A second attach replaces the first; after detach nothing is frozen, held or counted."""
    net, trainer = make_net(), Engine(lambda engine, batch: None)
    heard: list[str] = []
    on_annotation(trainer, lambda engine, notice: heard.append(notice.kind))
    freezer = ParameterFreezer(net, "0.*")
    freezer.attach(trainer, freeze=Events.ITERATION_STARTED(once=1))
    freezer.attach(trainer, freeze=Events.ITERATION_STARTED(once=2))
    trainer.run(range(3))
    assert heard == ["freeze"]
    freezer.detach()
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert net.train()[0][1].training
    trainer.run(range(3), max_epochs=2)
    assert heard == ["freeze"]


def test_the_optimizer_must_have_what_is_to_be_unfrozen() -> None:
    """A parameter in no group would stay as it is after the unfreeze; without an unfreeze there is no need."""
    net, trainer = make_net(), Engine(lambda engine, batch: None)
    freezer = ParameterFreezer(net, "0.*", optimizer=torch.optim.SGD(net[2].parameters(), lr=0.1))
    freezer.attach(trainer)
    with pytest.raises(
        ValueError, match=r"but has none for: 0\.0\.weight, .*; make every group up front, as param_groups"
    ):
        freezer.attach(trainer, unfreeze=Events.EPOCH_STARTED(once=2))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"trainer": 3}, TypeError, r"trainer must be an ignite Engine, got 3 \(int\)"),
        ({"freeze": 3}, TypeError, "freeze must be an Ignite event such as Events.EPOCH_COMPLETED, got 3"),
        ({"unfreeze": Events.STARTED | Events.EPOCH_STARTED, "freeze": None}, TypeError, "freeze must be an Ignite ev"),
        (
            {"unfreeze": OptimizerEvents.STEP_STARTED},
            ValueError,
            "no optimizer, got OptimizerEvents.STEP_STARTED; give",
        ),
    ],
)
def test_wrong_arguments_of_attach_are_errors(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    """What is no engine, no event, or an optimizer event without an optimizer is refused."""
    freezer = ParameterFreezer(make_net(), "0.*")
    with pytest.raises(error, match=message):
        freezer.attach(**{"trainer": Engine(lambda engine, batch: None), **arguments})


def test_wrong_arguments_of_the_constructor_are_errors() -> None:
    """The constructor checks what it is given, and changes nothing."""
    net = make_net()
    with pytest.raises(ValueError, match=r"pattern 'bdy\.\*' matches no parameter"):
        ParameterFreezer(net, "bdy.*")
    with pytest.raises(TypeError, match="optimizer must be a torch Optimizer, got 3"):
        ParameterFreezer(net, "0.*", optimizer=3)  # type: ignore[arg-type]
    ParameterFreezer(net, "0.*")
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_attaching_in_mid_run_is_an_error() -> None:
    """The start of the run, at which the freezer gets its bearings, must not be over."""
    trainer = Engine(lambda engine, batch: None)
    freezer = ParameterFreezer(make_net(), "0.*")
    trainer.add_event_handler(Events.EPOCH_STARTED(once=2), lambda: freezer.attach(trainer))
    with pytest.raises(RuntimeError, match="must be attached before the run starts; attach, then call run"):
        trainer.run(range(2), max_epochs=2)


def test_a_freezer_keeps_no_engine_alive() -> None:
    """When the trainer goes, what was attached to it goes too."""
    trainer = Engine(lambda engine, batch: None)
    freezer = ParameterFreezer(make_net(), "0.*")
    freezer.attach(trainer)
    reference = weakref.ref(trainer)
    del trainer
    gc.collect()
    assert reference() is None
    assert freezer.state_dict()["frozen"] is False


def test_a_script_module_is_refused() -> None:
    """TorchScript takes no changes to its modules."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated")
        scripted = torch.jit.script(nn.Linear(2, 2))
    with pytest.raises(TypeError, match="model must not be a ScriptModule"):
        ParameterFreezer(scripted, "weight").attach(Engine(lambda engine, batch: None))


@pytest.mark.parametrize("unfreeze", [None, Events.EPOCH_STARTED(once=2)])
def test_what_was_frozen_by_hand_is_told_of_if_it_is_to_be_unfrozen(unfreeze: Any) -> None:
    """At the call of run(), once; the remedy lets the part train again."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    model[0].requires_grad_(False)
    trainer = Engine(lambda engine, batch: None)
    ParameterFreezer(model, "0.*").attach(trainer, freeze=Events.STARTED, unfreeze=unfreeze)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.run([0], max_epochs=2)
    told = [(warning.filename, "unfreezing changes nothing" in str(warning.message)) for warning in caught]
    assert told == ([] if unfreeze is None else [(__file__, True)])
    assert not model[0].weight.requires_grad


def test_the_remedy_for_a_part_frozen_by_hand() -> None:
    """With requires_grad_(True) before the run it is frozen and unfrozen, without a warning."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    model[0].requires_grad_(False)
    trainer = Engine(lambda engine, batch: None)
    ParameterFreezer(model, "0.*").attach(trainer, unfreeze=Events.EPOCH_STARTED(once=2))
    model[0].requires_grad_(True)
    trainer.run([0], max_epochs=2)
    assert model[0].weight.requires_grad
