"""preserved(): changes of a block to a model and to the random number generators are undone."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from ignite_tips.summary.preserve_state import preserved
from tests.settings import seeded
from tests.support import run_distributed


def _model() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[0].weight.grad = torch.ones(2, 2)
    return model


CHANGES: dict[str, Callable[[Any], Any]] = {
    "flag": lambda model: model[1].eval(),
    "buffer in place": lambda model: model(torch.randn(4, 2)),
    "buffer replaced": lambda model: setattr(model[1], "running_mean", torch.ones(2)),
    "buffer with a graph": lambda model: model[1].running_var.mul_(2.0),
    "attribute": lambda model: setattr(model[0], "calls", 3),
    "hook added": lambda model: model[0].register_forward_hook(lambda *_: None),
    "hook with keywords": lambda model: model[0].register_forward_pre_hook(lambda *_: None, with_kwargs=True),
    "frozen": lambda model: model[0].weight.requires_grad_(False),
    "gradient dropped": lambda model: setattr(model[0].weight, "grad", None),
    "child replaced": lambda model: setattr(model, "0", nn.Identity()),
    "random numbers": lambda model: (torch.rand(1), random.random(), np.random.rand()),
}


def _state(model: nn.Sequential) -> list[Any]:
    modules = [
        {key: dict(value) if isinstance(value, dict) else value for key, value in module.__dict__.items()}
        for module in model.modules()
    ]
    tensors = [(id(tensor), tensor.tolist()) for tensor in model.state_dict(keep_vars=True).values()]
    grads = [(parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    generators = [torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())]
    return [str(modules), tensors, str(grads), generators]


def _change_and_fail(model: nn.Sequential, name: str) -> None:
    with preserved(model):
        CHANGES[name](model)
        raise KeyError("stop")


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_undone_bit_for_bit(name: str) -> None:
    """Also if the block raises."""
    model = _model()
    before = _state(model)
    with preserved(model):
        CHANGES[name](model)
        assert _state(model) != before
    assert _state(model) == before
    with pytest.raises(KeyError, match="stop"):
        _change_and_fail(model, name)
    assert _state(model) == before


def test_handles_of_hooks_stay_valid() -> None:
    """A hook registered before can be removed afterwards."""
    model = _model()
    handle = model[0].register_forward_hook(lambda *_: None)
    with preserved(model):
        model(torch.randn(4, 2))
    handle.remove()
    assert not model[0]._forward_hooks


def test_buffers_that_cannot_be_written_to_are_accepted() -> None:
    """An expanded buffer, and one of NaN."""
    model = nn.Module()
    model.register_buffer("positions", torch.arange(3.0)[:, None].expand(3, 4))
    model.register_buffer("unknown", torch.full((2,), float("nan")))
    with preserved(model):
        pass
    assert torch.isnan(model.unknown).all()  # type: ignore[arg-type]  # a Tensor


def _run_sharded(rank: int, world_size: int, evaluated: bool, summarized: bool) -> tuple[list[str], torch.Tensor]:
    """Return the types in a state dict after an evaluation, and the parameters after one more update."""
    torch.manual_seed(seeded())
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 4)), nn.Linear(4, 2))
    fully_shard(model[0], mesh=init_device_mesh("cpu", (world_size,)))
    fully_shard(
        model, mesh=init_device_mesh("cpu", (world_size,))
    )  # its own parameters stay unsharded after a forward pass
    x = torch.ones(1, 2) + rank
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def run() -> None:
        with torch.no_grad():
            model(x)

    if evaluated:
        run()
    if summarized:
        with preserved(model):
            run()
    run()
    types = [type(tensor).__name__ for tensor in model.state_dict().values()]
    model(x).sum().backward()
    optimizer.step()
    whole = [p.full_tensor() if isinstance(p, DTensor) else p for p in model.parameters()]
    return types, torch.cat([parameter.detach().flatten() for parameter in whole])


@pytest.mark.distributed
@pytest.mark.parametrize("evaluated", [False, True], ids=["first", "after an evaluation"])
def test_a_sharded_model_continues_as_without(evaluated: bool) -> None:
    """What fully_shard sets up at the first forward pass stays: training and checkpoints still use shards."""
    ((types, weights), _) = run_distributed(_run_sharded, 2, evaluated, True)
    ((expected_types, expected), _) = run_distributed(_run_sharded, 2, evaluated, False)
    assert types == expected_types == ["DTensor"] * 4
    assert torch.equal(weights, expected)
