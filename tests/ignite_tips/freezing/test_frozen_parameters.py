"""Freezing parameters and statistics, and getting all of it back."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ignite_tips.freezing.frozen_parameters import freeze_parameters, unfreeze_parameters
from ignite_tips.parameters.selection import (
    trainable_fraction,
)


def make_net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2), nn.BatchNorm1d(2, affine=False))


def statistics(module: nn.Module) -> list[torch.Tensor]:
    return [buffer.clone() for buffer in module.buffers()]


def test_freezing_takes_gradients_and_statistics() -> None:
    """Frozen parameters lose requires_grad and gradient, and BatchNorm holds through train() of the whole model."""
    net = make_net()
    net(torch.randn(4, 2)).sum().backward()
    before = statistics(net[1])
    frozen = freeze_parameters(net, ["0.*", "1.*"])
    assert frozen.names == ("0.weight", "0.bias", "1.weight", "1.bias")
    assert [p.grad is None for p in net.parameters()] == [True] * 4 + [False] * 2
    for _ in range(2):
        net.train()(torch.randn(4, 2))
    assert all(torch.equal(a, b) for a, b in zip(before, statistics(net[1]), strict=True))
    assert [module.training for module in net] == [True, False, True, True]


@pytest.mark.parametrize(
    ("patterns", "held"),
    [
        ("1.*", [True, False]),
        ("1.weight", [False, False]),
        ("*.weight", [False, False]),
        (["1.weight", "1.bias"], [True, False]),
        ("*", [True, True]),
        (["2.*", "3.*"], [False, True]),
    ],
)
def test_which_norms_hold(patterns: Any, held: list[bool]) -> None:
    """A norm holds if all its parameters are frozen; without any, if a pattern matches its statistics."""
    net = make_net()
    if "3.*" in patterns:  # matches no parameter, so that it has to come with one that does
        patterns = ["2.*", "[23].*"]
    freeze_parameters(net, patterns)
    assert [not net[index].training for index in (1, 3)] == held


def test_kin_of_batch_norm_hold_too() -> None:
    """InstanceNorm with statistics, SyncBatchNorm and spectral norm stay as they are."""
    spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3))
    net = nn.Sequential(nn.InstanceNorm1d(3, track_running_stats=True), nn.BatchNorm1d(3), spectral)
    freeze_parameters(net, "*")
    before = statistics(net)
    for _ in range(2):
        net.train()(torch.randn(4, 3, 3))
    assert all(torch.equal(a, b) for a, b in zip(before, statistics(net), strict=True))


def test_unfreezing_puts_back_what_was_and_no_more() -> None:
    """What the user froze, held in eval mode, or gave a train() of its own, is so again; a second call does nothing."""
    net = make_net()
    net[0].bias.requires_grad_(False)
    own_train = net[3].train
    net[3].train = own_train
    net[1].eval()
    frozen = freeze_parameters(net, ["0.*", "1.*", "[23].*"])
    unfreeze_parameters(frozen)
    unfreeze_parameters(frozen)
    assert [name for name, p in net.named_parameters() if not p.requires_grad] == ["0.bias"]
    assert not net[1].training
    assert net[3].__dict__["train"] is own_train
    assert "train" not in net[1].__dict__
    net.train()
    assert net[1].training


@pytest.mark.parametrize("asked", [True, False])
def test_the_mode_asked_for_meanwhile_is_there_after_unfreezing(asked: bool) -> None:
    """train() and eval() of the model while frozen are followed as soon as the norm is free."""
    net = make_net()
    frozen = freeze_parameters(net, "1.*")
    net.train(asked)
    assert not net[1].training
    unfreeze_parameters(frozen)
    assert net[1].training is asked


def test_nested_freezes_unfreeze_in_reverse() -> None:
    """What an outer freeze holds stays frozen when an inner one over it ends."""
    net = make_net()
    outer = freeze_parameters(net, "1.*")
    inner = freeze_parameters(net, ["0.*", "1.*"])
    unfreeze_parameters(inner)
    assert [name for name, p in net.named_parameters() if not p.requires_grad] == ["1.weight", "1.bias"]
    assert not net.train()[1].training
    unfreeze_parameters(outer)
    assert net[1].training


@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0")
def test_torch_compile_follows_a_freeze_and_an_unfreeze() -> None:
    """A compiled model is compiled anew: frozen parameters get no gradient, held statistics stay."""
    net = make_net()
    compiled = torch.compile(net, backend="aot_eager")
    x = torch.randn(4, 2)
    compiled(x).sum().backward()
    frozen = freeze_parameters(compiled, ["0.*", "1.*"])
    before = statistics(net[1])
    compiled.train()
    compiled(x).square().sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(before, statistics(net[1]), strict=True))
    assert net[0].weight.grad is None
    assert net[2].weight.grad is not None
    unfreeze_parameters(frozen)
    compiled(x).square().sum().backward()
    assert not torch.equal(before[0], statistics(net[1])[0])
    assert net[0].weight.grad is not None


def test_only_a_freeze_is_unfrozen() -> None:
    """Anything but the result of freeze_parameters is a TypeError."""
    with pytest.raises(TypeError, match=r"frozen must be what freeze_parameters returned, got '0\.\*'"):
        unfreeze_parameters("0.*")  # type: ignore[arg-type]


@given(st.lists(st.sampled_from(["0.*", "1.*", "2.*", "*.bias", "*.weight", "*"]), min_size=1, max_size=4))
def test_freezing_and_unfreezing_in_any_order_of_nesting_leaves_no_trace(patterns: list[str]) -> None:
    """Any stack of freezes, undone from the top, gives back the model as it was."""
    net = make_net()
    stack = [freeze_parameters(net, pattern) for pattern in patterns]
    frozen = {name for layer in stack for name in layer.names}
    sizes = {name: parameter.numel() for name, parameter in net.named_parameters()}
    assert trainable_fraction(net) == sum(sizes[name] for name in sizes if name not in frozen) / sum(sizes.values())
    for layer in reversed(stack):
        unfreeze_parameters(layer)
    assert trainable_fraction(net) == 1.0
    assert all(module.training for module in net.train().modules())
    assert not any("train" in module.__dict__ for module in net.modules())
