"""A DDP wrapper that follows requires_grad in place: gradients averaged, hooks and options kept, misuse refused."""

import inspect
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from ignite_tips.freezing.ddp_reducer import find_wrappers, rewrap_model
from ignite_tips.freezing.frozen_parameters import freeze_parameters, unfreeze_parameters
from tests.settings import seeded
from tests.support import run_distributed

pytestmark = pytest.mark.distributed


def make_ddp(dtype: torch.dtype = torch.float32, **options: Any) -> DistributedDataParallel:
    torch.manual_seed(seeded())
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    return DistributedDataParallel(net.to(dtype), **options)


def train(model: nn.Module, rank: int, steps: int = 3, seed: int = 0) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(seeded(10 * seed + rank))
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 4, generator=generator)).square().mean().backward()
        optimizer.step()


def difference(model: nn.Module) -> float:
    """Return the largest difference between rank 0's parameters and this rank's."""
    largest = 0.0
    for parameter in model.parameters():
        first = parameter.detach().clone()
        dist.broadcast(first, 0)
        largest = max(largest, (first - parameter).abs().max().item())
    return largest


PRIVATE = (
    "_build_debug_param_to_name_mapping",
    "_build_params_for_reducer",
    "_comm_hooks",
    "_ddp_init_helper",
    "_delay_all_reduce_params",
    "_get_ddp_logging_data",
    "_has_rebuilt_buckets",
    "_module_parameters",
    "_register_builtin_comm_hook",
    "_static_graph_delay_allreduce_enqueued",
    "_use_python_reducer",
    "logger._set_static_graph",
    "reducer._set_static_graph",
)


def _missing_attributes(rank: int, world_size: int) -> list[str]:
    ddp = make_ddp(static_graph=True)
    train(ddp, rank)
    return [name for name in PRIVATE if not _has(ddp, name)]


def _has(thing: object, path: str) -> bool:
    name, _, rest = path.partition(".")
    return hasattr(thing, name) and (not rest or _has(getattr(thing, name), rest))


def test_torch_has_the_attributes() -> None:
    """Each private attribute of DistributedDataParallel that freezing/ddp_reducer.py reads or sets is there."""
    (missing,) = run_distributed(_missing_attributes, 1)
    assert not missing, (
        f"DistributedDataParallel has no {', '.join(missing)} any more; freezing/ddp_reducer.py needs another way"
    )


def _without_rewrapping(rank: int, world_size: int) -> tuple[str, float]:
    model = make_ddp()
    model.module[0].requires_grad_(False)
    try:
        train(model, rank)
        error = "none"
    except RuntimeError as raised:
        error = str(raised)
    model = make_ddp_of_frozen()
    model.module[0].requires_grad_(True)
    train(model, rank)
    return error, difference(model)


def make_ddp_of_frozen() -> DistributedDataParallel:
    torch.manual_seed(seeded())
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    net[0].requires_grad_(False)
    return DistributedDataParallel(net)


def test_what_goes_wrong_without_it() -> None:
    """DDP alone ends in an error after a freeze, and drifts apart without one after an unfreeze."""
    for rank, (error, drift) in enumerate(run_distributed(_without_rewrapping, 2)):
        assert "Expected to have finished reduction in the prior iteration" in error
        assert drift > 1e-5 or rank == 0


OPTIONS: list[dict[str, Any]] = [
    {},
    {"gradient_as_bucket_view": True},
    {"find_unused_parameters": True},
    {"static_graph": True},
    {"broadcast_buffers": False, "bucket_cap_mb": 1},
    {"forward_sync_buffers": False},  # since torch 2.13, as the next
    {"batched_grad_copy": True},
]
_KNOWN = inspect.signature(DistributedDataParallel).parameters
OPTIONS = [options for options in OPTIONS if options.keys() <= _KNOWN.keys()]


def _freeze_and_unfreeze(rank: int, world_size: int) -> list[tuple[float, bool, list[str]]]:
    results = []
    for options in OPTIONS:
        model = make_ddp(**options)
        called: list[str] = []
        model.register_forward_pre_hook(lambda *_, called=called: called.append("pre"))
        model.register_forward_hook(lambda *_, called=called: called.append("post"))
        model.note = "the user's"

        def comm_hook(state, bucket):  # type: ignore[no-untyped-def]  # torch refuses any annotation but its own
            state.append("comm")
            return allreduce_hook(None, bucket)

        model.register_comm_hook(called, comm_hook)
        train(model, rank)
        old_reducer = model.reducer  # kept alive on purpose: it must not meddle
        for seed, patterns in enumerate((["0.*", "1.*"], ["2.weight"]), start=1):
            frozen = freeze_parameters(model, patterns)
            rewrap_model(model)
            train(model, rank, seed=seed)
            unfreeze_parameters(frozen)
            rewrap_model(model)
            called.clear()
            train(model, rank, steps=2, seed=seed + 2)
        kept = all(getattr(model, key) == value for key, value in options.items() if hasattr(model, key))
        assert old_reducer is not model.reducer
        results.append((difference(model), kept and model.note == "the user's", called))
    return results


def test_replicas_stay_equal_with_every_option_and_hook() -> None:
    """Through freeze and unfreeze the difference is 0, and options, hooks and attributes are still there."""
    for results in run_distributed(_freeze_and_unfreeze, 2):
        for drift, kept, called in results:
            assert drift == 0
            assert kept
            assert [name for name in called if name != "comm"] == ["pre", "post"] * 2
            assert called.count("comm") >= 2


def _compressed(rank: int, world_size: int) -> tuple[float, str, list[int]]:
    model = make_ddp()
    model._register_builtin_comm_hook(dist.BuiltinCommHookType.FP16_COMPRESS)
    frozen = freeze_parameters(model, "0.*")
    rewrap_model(model)
    train(model, rank)
    name = model._get_ddp_logging_data()["comm_hook"]

    model = make_ddp()
    state = powerSGD_hook.PowerSGDState(None, start_powerSGD_iter=2)
    model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    train(model, rank, steps=5)
    iterations = [state.iter]
    frozen = freeze_parameters(model, "0.*")
    rewrap_model(model)
    iterations.append(state.iter)
    train(model, rank, steps=4)
    unfreeze_parameters(frozen)
    rewrap_model(model)
    train(model, rank, steps=4)
    iterations.append(state.iter)
    return difference(model), name, iterations


def test_built_in_and_power_sgd_hooks_survive() -> None:
    """FP16 compression is registered again; PowerSGD forgets the old buckets and compresses again after two steps."""
    for drift, name, iterations in run_distributed(_compressed, 2):
        assert drift == 0
        assert name == "BuiltinCommHookType.FP16_COMPRESS"
        assert iterations == [5, 0, 4]


def _in_the_middle_of_an_accumulation(rank: int, world_size: int) -> tuple[float, float]:
    worst = 0.0
    for options in ({}, {"gradient_as_bucket_view": True}):
        model = make_ddp(torch.float64, **options)
        model.zero_grad()
        inputs = torch.randn(3, 8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seeded(rank)))
        expected = make_ddp(torch.float64)
        expected.load_state_dict(model.state_dict())
        frozen = freeze_parameters(model, "0.*")
        rewrap_model(model)
        for number, x in enumerate(inputs):
            if number == 1:  # there are local gradients, which only the last of the three averages
                unfreeze_parameters(frozen)
                rewrap_model(model)
            with model.no_sync() if number < 2 else torch.enable_grad():
                model(x).square().mean().backward()
        for number, x in enumerate(inputs):
            for parameter in expected.module[0].parameters():
                parameter.requires_grad_(number > 0)
            expected.module(x).square().mean().backward()
        for mine, theirs in zip(model.parameters(), expected.parameters(), strict=True):
            dist.all_reduce(theirs.grad)
            worst = max(worst, (mine.grad - theirs.grad / world_size).abs().max().item())
    return worst, difference(model)


def test_gradients_of_an_accumulation_under_way_are_kept() -> None:
    """A rebuild between two micro-batches loses none of the gradients that are there."""
    for worst, drift in run_distributed(_in_the_middle_of_an_accumulation, 2):
        assert worst < 1e-12  # 24 rows of 8 values at most are added, of gradients below 10, in double precision
        assert drift == 0


def _everything_frozen(rank: int, world_size: int) -> tuple[bool, float]:
    model = make_ddp()
    train(model, rank)
    frozen = freeze_parameters(model, "*")
    rewrap_model(model)
    x = torch.randn(8, 4, requires_grad=True)  # as a generator trains through a frozen discriminator
    model(x).sum().backward()
    untouched = x.grad is not None and all(parameter.grad is None for parameter in model.parameters())
    unfreeze_parameters(frozen)
    rewrap_model(model)
    train(model, rank, seed=1)
    return untouched, difference(model)


def test_a_wholly_frozen_model_rests_and_wakes() -> None:
    """With nothing left to train DDP passes gradients through, and averages again after the unfreeze."""
    assert run_distributed(_everything_frozen, 2) == [(True, 0.0), (True, 0.0)]


def _different_ranks(rank: int, world_size: int) -> str:
    model = make_ddp()
    freeze_parameters(model, "0.*" if rank == 0 else "2.*")
    try:
        rewrap_model(model)
    except RuntimeError as error:
        return str(error)
    return "no error"


def test_ranks_that_differ_are_all_told() -> None:
    """Ranks that froze different layers of as many parameters each get an error instead of wrong averages."""
    for rank, error in enumerate(run_distributed(_different_ranks, 2)):
        assert f"but here they differ: rank {rank} trains 4 of 6" in error


def _refused_options(rank: int, world_size: int) -> list[str]:
    errors = []
    for attribute, value in (("mixed_precision", object()), ("_delay_all_reduce_params", [1])):
        model = make_ddp()
        setattr(model, attribute, value)
        try:
            rewrap_model(model)
        except RuntimeError as error:
            errors.append(str(error))
    return errors


def test_options_that_cannot_follow_are_refused() -> None:
    """Wrappers with mixed_precision or delayed all-reduces are refused by name."""
    for errors in run_distributed(_refused_options, 1):
        assert errors[0].startswith("DistributedDataParallel with mixed_precision= cannot follow a freeze")
        assert errors[1].startswith("DistributedDataParallel with delay_all_reduce_named_params= cannot follow")


def _freeze_before_wrapping(rank: int, world_size: int) -> tuple[str, list[bool]]:
    def wrap(net: nn.Sequential) -> DistributedDataParallel:
        options = {"delay_all_reduce_named_params": [("2.bias", net[2].bias)], "param_to_hook_all_reduce": net[2].bias}
        return DistributedDataParallel(net, **options)

    told = ""
    try:
        rewrap_model(wrap(make_ddp().module))
    except RuntimeError as error:
        told = str(error)
    net = make_ddp().module
    freeze_parameters(net, ["0.*", "1.*"])
    before = [tensor.clone() for tensor in net.state_dict().values()]
    train(wrap(net), rank)
    return told, [torch.equal(one, other) for one, other in zip(before, net.state_dict().values(), strict=True)]


def test_a_freeze_before_wrapping_needs_no_new_reducer() -> None:
    """As the error says: what is frozen then, and stays so, is compatible with such options."""
    ((told, is_same),) = run_distributed(_freeze_before_wrapping, 1)
    assert told.endswith("; freeze before wrapping and keep it frozen, or wrap without that option")
    assert is_same == [True] * 7 + [False] * 2


def test_only_a_ddp_wrapper_is_rewrapped() -> None:
    """Anything else is a TypeError."""
    with pytest.raises(TypeError, match=r"ddp_model must be a DistributedDataParallel, got Linear"):
        rewrap_model(nn.Linear(2, 2))


class _OwnDDP(DistributedDataParallel):
    pass


def _search(rank: int, world_size: int) -> list[bool]:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    wrapper, other = _OwnDDP(net), DistributedDataParallel(nn.Linear(2, 2))
    both = nn.Sequential(wrapper, other)
    return [
        find_wrappers(wrapper, net[1].parameters()) == [wrapper],
        find_wrappers(torch.compile(wrapper), net.parameters()) == [wrapper],
        find_wrappers(both, net.parameters()) == [wrapper],
        find_wrappers(both, both.parameters()) == [wrapper, other],
        find_wrappers(net, net.parameters()) == [],
    ]


def test_wrappers_are_found_in_the_model() -> None:
    """The wrapper is found in itself and in what contains it, if it has one of the parameters."""
    assert run_distributed(_search, 1) == [[True] * 5]
