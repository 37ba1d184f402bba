"""The strategy that the environment sets, and the process group and wrapper that follow from it."""

import os
import socket
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import ignite.distributed as idist
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from ignite_tips.distributed import Strategy, process_group, strategy_from_environment, wrap_model
from ignite_tips.freezing.ddp_reducer import rewrap_model
from ignite_tips.freezing.frozen_parameters import freeze_parameters, unfreeze_parameters
from ignite_tips.parameters.selection import select_parameters
from tests.remedies import says
from tests.settings import seeded
from tests.support import run_distributed

VARIABLES = (
    "IGNITE_LAUNCH_STRATEGY",
    "IGNITE_LAUNCH_BACKEND",
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
)
TORCHRUN = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    yield
    assert not dist.is_initialized()


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture
def one_process_ddp(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in {**TORCHRUN, "MASTER_PORT": free_port(), "IGNITE_LAUNCH_BACKEND": "gloo"}.items():
        monkeypatch.setenv(variable, value)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Strategy("single")),
        ({"MASTER_ADDR": "node0", "MASTER_PORT": "1"}, Strategy("single")),
        ({"IGNITE_LAUNCH_STRATEGY": "single"}, Strategy("single")),
        ({"IGNITE_LAUNCH_STRATEGY": "dp", "IGNITE_LAUNCH_BACKEND": "nccl"}, Strategy("dp")),
        (
            {"IGNITE_LAUNCH_STRATEGY": "ddp", "IGNITE_LAUNCH_BACKEND": "nccl", **TORCHRUN, "MASTER_PORT": "1"},
            Strategy("ddp", "nccl"),
        ),
        ({"IGNITE_LAUNCH_BACKEND": "gloo", **TORCHRUN, "MASTER_PORT": "1"}, Strategy("ddp", "gloo")),
        ({**TORCHRUN, "MASTER_PORT": "1"}, Strategy("ddp", "nccl" if torch.cuda.is_available() else "gloo")),
    ],
)
def test_strategy_follows_from_the_environment(environment: dict[str, str], expected: Strategy) -> None:
    """The launcher's variables come first, then torchrun's; none, or only an address, means a single process."""
    assert strategy_from_environment(environment) == expected


@pytest.mark.parametrize(
    ("environment", "error", "message"),
    [
        (
            {"IGNITE_LAUNCH_STRATEGY": "fsdp"},
            ValueError,
            "IGNITE_LAUNCH_STRATEGY must be 'single', 'dp' or 'ddp', got 'fsdp'",
        ),
        ({"IGNITE_LAUNCH_BACKEND": "mpi"}, ValueError, "IGNITE_LAUNCH_BACKEND must be 'nccl' or 'gloo', got 'mpi'"),
        ({"IGNITE_LAUNCH_BACKEND": "gloo"}, RuntimeError, "IGNITE_LAUNCH_STRATEGY is not; set both or neither"),
        ({"IGNITE_LAUNCH_STRATEGY": "ddp"}, RuntimeError, "missing: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, RuntimeError, "missing: LOCAL_RANK, MASTER_ADDR, MASTER_PORT; start"),
        ({**TORCHRUN, "MASTER_PORT": ""}, RuntimeError, "missing: MASTER_PORT"),
        ({**TORCHRUN, "MASTER_PORT": "1", "RANK": "-1"}, ValueError, "RANK must be an integer >= 0, got '-1'"),
        ({**TORCHRUN, "MASTER_PORT": "1", "RANK": "1"}, ValueError, "must be < WORLD_SIZE 1, got 1 and 0"),
        (
            {"IGNITE_LAUNCH_STRATEGY": "single", "WORLD_SIZE": "2"},
            RuntimeError,
            "'single' means one process, but WORLD_SIZE is 2",
        ),
    ],
)
def test_half_set_or_unknown_variables_are_errors(
    environment: dict[str, str], error: type[Exception], message: str
) -> None:
    """Variables that are unknown, incomplete or contradictory raise an error instead of a guess."""
    with pytest.raises(error, match=message):
        strategy_from_environment(environment)


def test_a_single_process_has_no_group_and_a_bare_model() -> None:
    """Without variables the model is returned unchanged, even with options for DDP."""
    model = nn.Linear(2, 2)
    with process_group() as strategy:
        assert strategy == Strategy("single")
        assert not dist.is_initialized()
        assert wrap_model(model, find_unused_parameters=True) is model


def test_several_visible_gpus_do_not_turn_single_into_data_parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strategy single stays single where ignite's auto_model would choose DataParallel."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert type(wrap_model(nn.Linear(2, 2))) is nn.Linear


def test_dp_is_data_parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strategy dp wraps in DataParallel, and ignores DDP's options."""
    monkeypatch.setenv("IGNITE_LAUNCH_STRATEGY", "dp")
    with process_group():
        wrapped = wrap_model(nn.Linear(2, 2), gradient_as_bucket_view=True)
    assert type(wrapped) is DataParallel


@pytest.mark.usefixtures("one_process_ddp")
def test_a_group_of_one_process_is_still_ddp() -> None:
    """Under ddp the wrapper is DDP, with the given options, for any number of processes."""
    os.environ["SLURM_JOB_ID"] = "17"
    try:
        with process_group():
            wrapped = wrap_model(nn.BatchNorm1d(2), sync_bn=False, find_unused_parameters=True)
            assert type(wrapped) is DistributedDataParallel
            assert wrapped.find_unused_parameters
            os.environ["SET_INSIDE"] = "1"
        assert os.environ.pop("SET_INSIDE") == "1"
        assert os.environ["SLURM_JOB_ID"] == "17"
    finally:
        del os.environ["SLURM_JOB_ID"]
    assert idist.get_world_size() == 1


@pytest.mark.usefixtures("one_process_ddp")
def test_the_group_is_gone_after_an_error_and_after_the_users_own_end() -> None:
    """The block destroys the group when it raises, and accepts that the user may have done so already."""
    with pytest.raises(KeyError, match="oops"), process_group():
        raise KeyError("oops")
    assert not dist.is_initialized()
    with process_group():
        dist.destroy_process_group()
    assert idist.get_world_size() == 1


@pytest.mark.usefixtures("one_process_ddp")
def test_wrong_orders_of_calls_are_errors() -> None:
    """Strategy ddp without a group, nested blocks, and a second group are refused."""
    with pytest.raises(RuntimeError, match="call it inside `with process_group"):
        wrap_model(nn.Linear(2, 2))
    with process_group():
        with says("must not be entered twice; use one block for the whole script"), process_group():
            pass
        wrapped = wrap_model(nn.Linear(2, 2))
        with pytest.raises(ValueError, match="got one wrapped in DistributedDataParallel"):
            wrap_model(wrapped)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (3, {}, r"model must be a torch.nn.Module, got 3 \(int\)"),
        (nn.Linear(2, 2), {"find_unused": True}, "got 'find_unused'"),
        (nn.Linear(2, 2), {"device_ids": [0]}, "except device_ids, got 'device_ids'"),
    ],
)
def test_bad_arguments_are_errors_under_every_strategy(model: Any, options: dict[str, Any], message: str) -> None:
    """A misspelled option is an error even in a single process."""
    with pytest.raises(TypeError, match=message):
        wrap_model(model, **options)


@pytest.mark.parametrize(("gpus", "rank"), [(0, 0), (1, 1)])
@pytest.mark.usefixtures("one_process_ddp")
def test_nccl_needs_a_gpu_for_each_process(gpus: int, rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """More processes than GPUs is an error before anything starts; with fewer, or over gloo, it does start."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    started: list[str] = []
    monkeypatch.setattr(idist, "initialize", started.append)

    def start(backend: str, rank: int, world_size: int) -> None:
        variables = {"LOCAL_RANK": rank, "RANK": rank, "WORLD_SIZE": world_size, "IGNITE_LAUNCH_BACKEND": backend}
        for variable, value in variables.items():
            monkeypatch.setenv(variable, str(value))
        with process_group():
            pass

    fewer = "start fewer processes, or " if gpus else ""
    with says(f"LOCAL_RANK {rank} sees {gpus} GPUs; {fewer}set IGNITE_LAUNCH_BACKEND to gloo"):
        start("nccl", rank, rank + 1)
    start("gloo", rank, rank + 1)
    if gpus:
        start("nccl", 0, 1)
    assert started == (["gloo", "nccl"] if gpus else ["gloo"])


def test_variables_that_belong_together() -> None:
    """Both or neither is a strategy; several processes need ddp, and one process is alone."""
    backend, single = {"IGNITE_LAUNCH_BACKEND": "gloo"}, {"IGNITE_LAUNCH_STRATEGY": "single"}
    with says("set both or neither"):
        strategy_from_environment(backend)
    assert strategy_from_environment(backend | single) == strategy_from_environment({}) == Strategy("single")
    several = backend | TORCHRUN | {"WORLD_SIZE": "2", "MASTER_PORT": "1"}
    with says("set it to ddp, or start one process"):
        strategy_from_environment(several | single)
    assert strategy_from_environment(several | {"IGNITE_LAUNCH_STRATEGY": "ddp"}) == Strategy("ddp", "gloo")
    assert strategy_from_environment(several | single | {"WORLD_SIZE": "1"}) == Strategy("single")


@pytest.mark.usefixtures("one_process_ddp")
def test_a_group_of_the_users_own() -> None:
    """Left to process_group(), there is one, and it ends with the block."""
    dist.init_process_group("gloo")
    with says("leave that to it"), process_group():
        pass
    dist.destroy_process_group()
    with process_group():
        assert dist.is_initialized()
    assert not dist.is_initialized()


def _in_own_group(function: Callable[..., Any], rank: int, world_size: int) -> Any:
    # run_distributed's group only serves to agree on ports, for process_group() and for the barrier at its end.
    ports = [free_port(), free_port()]
    dist.broadcast_object_list(ports)
    dist.destroy_process_group()
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=ports[0], IGNITE_LAUNCH_STRATEGY="ddp")
    os.environ.update(IGNITE_LAUNCH_BACKEND="gloo", CUDA_VISIBLE_DEVICES="")
    result = function(rank)
    assert not dist.is_initialized()
    os.environ["MASTER_PORT"] = ports[1]
    dist.init_process_group("gloo", init_method="env://")
    return result


def _train_two_steps(rank: int) -> torch.Tensor:
    torch.manual_seed(seeded(rank))
    with process_group(timeout=timedelta(seconds=30)):
        model = wrap_model(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), sync_bn=False, static_graph=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            model(torch.randn(4, 3)).square().sum().backward()
            optimizer.step()
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def _two_ranks_train(rank: int, world_size: int) -> torch.Tensor:
    return _in_own_group(_train_two_steps, rank, world_size)


@pytest.mark.distributed
def test_two_processes_train_one_model() -> None:
    """Two processes run the same lines over gloo on different data and end with the same weights."""
    first, second = run_distributed(_two_ranks_train, 2)
    assert torch.equal(first, second)


def _fail_on_rank_one(rank: int) -> str:
    try:
        with process_group(timeout=timedelta(seconds=30)):
            if rank == 1:
                raise KeyError("oops")
            dist.barrier()
    except Exception as error:
        return type(error).__name__
    return "no error"


def _one_rank_fails(rank: int, world_size: int) -> str:
    return _in_own_group(_fail_on_rank_one, rank, world_size)


@pytest.mark.distributed
def test_a_failing_rank_ends_the_others_at_once() -> None:
    """The failing rank keeps its error, and the rank that waits for it gets an error instead of hanging."""
    waiting, failing = run_distributed(_one_rank_fails, 2, timeout=20.0)
    assert failing == "KeyError"
    assert waiting in ("RuntimeError", "DistBackendError")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.usefixtures("one_process_ddp")
def test_the_same_lines_run_over_nccl(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is on the GPU, and DDP works over nccl, also after a freeze and an unfreeze."""
    monkeypatch.setenv("IGNITE_LAUNCH_BACKEND", "nccl")
    with process_group():
        model = wrap_model(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)))
        for pattern in ("0.*", "1.*"):
            frozen = freeze_parameters(model, pattern)
            rewrap_model(model)
            model(torch.randn(4, 3, device=idist.device())).sum().backward()
            assert [p.grad is None for p in select_parameters(model, pattern).values()] == [True, True]
            unfreeze_parameters(frozen)
            rewrap_model(model)
            model(torch.randn(4, 3, device=idist.device())).sum().backward()
            assert all(p.grad is not None and p.is_cuda for p in model.parameters())
