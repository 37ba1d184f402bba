"""A part of a model under each wrapper: DDP wherever it is, DataParallel, FSDP and torch.compile."""

import pytest
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from ignite_tips.freezing.gradual_unfreezer import GradualUnfreezer
from ignite_tips.freezing.parameter_freezer import ParameterFreezer
from tests.oracles import TRAINED_IN_DOUBLE
from tests.settings import seeded
from tests.support import run_distributed


def make_net() -> nn.Sequential:
    torch.manual_seed(seeded())
    body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    return nn.Sequential(body, nn.ReLU(), nn.Linear(4, 2)).double()


def make_trainer(model: nn.Module, rank: int) -> Engine:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(seeded(rank))

    def update(engine: Engine, batch: int) -> None:
        model.train()
        optimizer.zero_grad()
        model(torch.randn(8, 4, generator=generator).to(next(model.parameters()))).square().mean().backward()
        optimizer.step()

    return Engine(update)


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


WAYS = ("wrapped", "compiled", "compiled inside", "inside another")


def _freeze_by_each_way(rank: int, world_size: int) -> dict[str, torch.Tensor]:
    return {way: _freeze_by_what_was_given(rank, way) for way in WAYS}


def _freeze_by_what_was_given(rank: int, way: str) -> torch.Tensor:
    net = make_net()
    wrapped: nn.Module = DistributedDataParallel(net)
    if way == "compiled":
        wrapped = torch.compile(wrapped, backend="aot_eager")
    if way == "compiled inside":
        wrapped = DistributedDataParallel(torch.compile(net, backend="aot_eager"))
    given = nn.Sequential(wrapped) if way == "inside another" else wrapped
    freezer = ParameterFreezer(given, "0.module.0.*" if way == "inside another" else "0.*")
    trainer = make_trainer(given, rank)
    freezer.attach(trainer, freeze=Events.EPOCH_STARTED(once=2), unfreeze=Events.EPOCH_STARTED(once=3))
    trainer.run(range(3), max_epochs=4)
    return weights(net)


@pytest.mark.distributed
def test_replicas_stay_equal_whatever_wrapper_the_freezer_was_given() -> None:
    """The wrapper, a compiled one, one of a compiled module, and what contains one all train as one."""
    firsts, seconds = run_distributed(_freeze_by_each_way, 2)
    expected = firsts["wrapped"]
    for way in WAYS:
        first, second = firsts[way], seconds[way]
        assert torch.equal(first, second), way
        if "compiled" in way:
            assert torch.allclose(first, expected, rtol=0, atol=TRAINED_IN_DOUBLE), way
        else:
            assert torch.equal(first, expected), way


BARE_WAYS = ("bare", "part", "wrapped later", "compiled", "compiled inside", "inside another", "evaluated first")


def _give_what_is_inside(rank: int, world_size: int) -> dict[str, tuple[str, int]]:
    return {way: _give_bare(rank, way) for way in BARE_WAYS}


def _give_bare(rank: int, way: str) -> tuple[str, int]:
    net = make_net()
    given: nn.Module = net[0] if way == "part" else net
    models: list[nn.Module] = []
    trainer = Engine(lambda engine, batch: make_trainer(models[-1], rank)._process_function(engine, batch))
    patterns = "*" if way == "part" else "0.*"
    if way == "wrapped later":
        ParameterFreezer(given, patterns).attach(trainer, freeze=Events.EPOCH_STARTED(once=2))
    wrapped: nn.Module = DistributedDataParallel(torch.compile(net, backend="eager") if "inside" in way else net)
    if way == "compiled":
        wrapped = torch.compile(wrapped, backend="eager")
    models.append(nn.Sequential(wrapped) if way == "inside another" else wrapped)
    if way != "wrapped later":
        freezer = GradualUnfreezer(given, [patterns]) if way == "part" else ParameterFreezer(given, patterns)
        freezer.attach(trainer)
    if way == "evaluated first":
        net.eval()
        trainer.add_event_handler(Events.STARTED, torch.no_grad()(lambda: net(torch.ones(1, 4).double())))
    try:
        trainer.run(range(3), max_epochs=2)
    except TypeError as error:
        return str(error), trainer.state.iteration
    return "no error", trainer.state.iteration


@pytest.mark.distributed
def test_a_module_inside_the_wrapper_is_refused_before_the_first_update() -> None:
    """Whatever was given of what the wrapper holds, its first forward pass asks for the wrapper, on every rank."""
    for answers in run_distributed(_give_what_is_inside, 2):
        for way, (error, iteration) in answers.items():
            owner = "GradualUnfreezer" if way == "part" else "ParameterFreezer"
            assert error == (
                "model must be the DistributedDataParallel wrapper that averages its gradients, got a module inside "
                f"it; give {owner} the wrapped model"
            ), way
            assert iteration == 1


def _look_for_leftovers(rank: int, world_size: int) -> list[int]:
    found: list[int] = []
    for make in (lambda: DistributedDataParallel(make_net()), make_net):
        model = make()
        trainer = make_trainer(model, rank)
        freezer = ParameterFreezer(model, "0.*").attach(trainer, unfreeze=Events.EPOCH_STARTED(once=2))
        for event in (Events.EPOCH_STARTED, Events.ITERATION_COMPLETED):
            trainer.add_event_handler(event, lambda: found.append(count_global_hooks()))
        trainer.run(range(1), max_epochs=2)
        freezer.detach()
        found.append(count_global_hooks())
    return found


def count_global_hooks() -> int:
    return len(nn.modules.module._global_forward_pre_hooks)


@pytest.mark.distributed
def test_each_change_is_watched_for_one_forward_pass() -> None:
    """There is a hook on all modules from a run's start or a change to the next forward pass, and none after detach.

    The model is the wrapper, and then one that nothing wraps.
    """
    assert run_distributed(_look_for_leftovers, 1) == [[1, 0, 1, 0, 0] * 2]


def test_without_a_process_group_nothing_is_watched() -> None:
    """One process alone has no hook on all modules."""
    trainer = Engine(lambda engine, batch: None)
    ParameterFreezer(make_net(), "0.*").attach(trainer)
    trainer.run(range(1))
    assert count_global_hooks() == 0


def _unfreeze_gradually(rank: int, world_size: int) -> tuple[torch.Tensor, list[int]]:
    model = DistributedDataParallel(make_net())
    trainer = make_trainer(model, rank)
    unfreezer = GradualUnfreezer(model, ["2.*", "0.1.*", "0.0.*"])
    unfreezer.attach(trainer)
    frozen: list[int] = []
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: frozen.append(len(unfreezer.frozen)))
    trainer.run(range(3), max_epochs=4)
    unfreezer.detach()
    return weights(model), frozen


@pytest.mark.distributed
def test_gradual_unfreezing_keeps_replicas_equal() -> None:
    """Each stage that opens is averaged from its first iteration on."""
    (first, frozen), (second, _) = run_distributed(_unfreeze_gradually, 2)
    assert torch.equal(first, second)
    assert frozen == [4, 2, 0, 0]


def _freeze_shards(rank: int, world_size: int, sharded: bool) -> torch.Tensor:
    torch.manual_seed(seeded())
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    model = net if sharded else DistributedDataParallel(net)
    if sharded:
        fully_shard(net[2])
        fully_shard(net)
    trainer = make_trainer(model, rank)

    @trainer.on(Events.EPOCH_COMPLETED)
    def evaluate() -> None:
        with torch.no_grad():
            model(torch.ones(1, 4, dtype=torch.float64))  # leaves the root's parameters unsharded

    ParameterFreezer(model, "0.*").attach(
        trainer, freeze=Events.EPOCH_STARTED(once=2), unfreeze=Events.EPOCH_STARTED(once=4)
    )
    ParameterFreezer(model, "2.*").attach(trainer, freeze=Events.STARTED, unfreeze=Events.EPOCH_STARTED(once=3))
    history = []

    @trainer.on(Events.EPOCH_COMPLETED)
    def remember() -> None:
        whole = [p.full_tensor() if isinstance(p, DTensor) else p for p in net.parameters()]
        history.append(torch.cat([parameter.detach().flatten() for parameter in whole]))

    trainer.run(range(3), max_epochs=5)
    return torch.stack(history)


@pytest.mark.distributed
def test_a_sharded_model_follows_as_ddp_does() -> None:
    """Under FSDP2 the weights after every epoch are those of DDP, evaluations in between included."""
    sharded = run_distributed(_freeze_shards, 2, True)
    replicated = run_distributed(_freeze_shards, 2, False)
    assert torch.equal(sharded[0], sharded[1])
    assert torch.allclose(sharded[0], replicated[0], rtol=0, atol=TRAINED_IN_DOUBLE)
    first, second = replicated[0][0][:20], replicated[0][1][:20]
    assert torch.equal(first, second)
    assert not torch.equal(replicated[0][3][:20], second)


def _wrap_in_fsdp1(rank: int, world_size: int) -> list[str]:
    wrapped = nn.Sequential(make_net())
    wrapped[0].__class__ = type("Sharded", (FullyShardedDataParallel,), {"__init__": None})
    errors = []
    for handler in (ParameterFreezer(wrapped, "*"), GradualUnfreezer(wrapped, ["*"])):
        try:
            handler.attach(Engine(lambda engine, batch: None))
        except TypeError as error:
            errors.append(str(error))
    return errors


@pytest.mark.distributed
def test_flat_parameters_are_refused() -> None:
    """FSDP1 is refused with the remedy."""
    (errors,) = run_distributed(_wrap_in_fsdp1, 1)
    assert len(errors) == 2
    for error in errors:
        assert error.startswith("model must not be wrapped in FullyShardedDataParallel, which makes one tensor of many")


def test_data_parallel_is_looked_through() -> None:
    """DataParallel copies the module anew for each forward pass, so there is nothing to rebuild."""
    net = make_net()
    model = nn.DataParallel(net)
    trainer = make_trainer(model, 0)
    ParameterFreezer(model, "0.*").attach(trainer)
    before = weights(net[0])
    trainer.run(range(3))
    assert torch.equal(weights(net[0]), before)
    assert not dist.is_initialized()
