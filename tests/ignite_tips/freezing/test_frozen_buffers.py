"""Buffers of frozen modules that no name gives away stay as they are, whatever changes them."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events, create_supervised_trainer
from ignite.handlers import ModelCheckpoint
from torch import nn
from torch.nn.utils.parametrize import register_parametrization

from ignite_tips import GradualUnfreezer, ParameterFreezer
from ignite_tips.freezing.frozen_buffers import FrozenBuffers
from tests.settings import seeded


class Averaged(nn.Linear):
    """Keeps an average of its inputs in the way of ``update``, and divides by it."""

    def __init__(self, update: Callable[[Any, torch.Tensor], None], *, only_in_training: bool = True) -> None:
        super().__init__(4, 4)
        self.register_buffer("scale", torch.full((4,), torch.nan))
        self.register_buffer("cache", torch.zeros(4), persistent=False)
        self.nonzero, self.update, self.only_in_training = 1.0, update, only_in_training

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.cache += 1
        if self.training or not self.only_in_training:
            self.update(self, x.detach().abs().mean(dim=0))
        return super().forward(x) / (1 + self.scale.nan_to_num().sum())


def in_place(module: Any, mean: torch.Tensor) -> None:
    module.scale.nan_to_num_(1.0).lerp_(mean, 0.5)


def by_data(module: Any, mean: torch.Tensor) -> None:
    module.scale.data.nan_to_num_(1.0).lerp_(mean, 0.5)


def anew(module: Any, mean: torch.Tensor) -> None:
    module.scale = mean


def longer(module: Any, mean: torch.Tensor) -> None:
    module.scale = torch.cat([module.scale, mean])


def resized(module: Any, mean: torch.Tensor) -> None:
    module.scale.resize_(5).fill_(mean[0])


class Drift(nn.Module):
    """A parametrization that moves with each call, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(()))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        self.shift += 0.1
        return weight + self.shift


class NormalizedInput(nn.Module):
    """The running statistics of reinforcement learning, which follow every call; the names are BatchNorm's."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.running_mean = nn.Linear(4, 4), nn.Buffer(torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.running_mean.lerp_(x.detach().mean(dim=0), 0.1)
        return self.linear(x - self.running_mean)


def observed() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), torch.ao.quantization.FakeQuantize())


def observed_channels() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), torch.ao.quantization.default_per_channel_weight_fake_quant())


def fused() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), torch.ao.quantization.default_fused_act_fake_quant())


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "in place": lambda: Averaged(in_place),
    "by .data": lambda: Averaged(by_data),
    "anew": lambda: Averaged(anew),
    "longer": lambda: Averaged(longer),
    "resized": lambda: Averaged(resized),
    "in eval mode too": lambda: Averaged(in_place, only_in_training=False),
    "names of BatchNorm": NormalizedInput,
    "parametrization": lambda: register_parametrization(nn.Linear(4, 4), "weight", Drift()),
    "fake quantization": observed,
    "fake quantization of channels": observed_channels,
    "fused fake quantization": fused,
    "old spectral norm": lambda: nn.utils.spectral_norm(nn.Linear(4, 4)),
    "batch norm": lambda: nn.BatchNorm1d(4),
}


def make_net(name: str) -> nn.Sequential:
    torch.manual_seed(seeded())
    return nn.Sequential(LAYERS[name](), nn.Linear(4, 2))


def make_trainer(net: nn.Module) -> tuple[Engine, torch.optim.Optimizer]:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    return create_supervised_trainer(net, optimizer, nn.MSELoss()), optimizer


def make_batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seeded(1))
    return [(5 + torch.randn(8, 4, generator=generator), torch.ones(8, 2)) for _ in range(4)]


def state_of(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        first[name].shape == second[name].shape and torch.allclose(first[name], second[name], 0, 0, equal_nan=True)
        for name in first
    )


@pytest.mark.parametrize("handler", ["ParameterFreezer", "GradualUnfreezer"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_frozen_layer_is_the_same_after_each_iteration(name: str, handler: str) -> None:
    """Its state dict and its output do not change while it is frozen, and change again afterwards."""
    net = make_net(name)
    trainer, _ = make_trainer(net)
    if handler == "ParameterFreezer":
        ParameterFreezer(net, "0.*").attach(trainer, unfreeze=Events.EPOCH_STARTED(once=3))
    else:
        GradualUnfreezer(net, ["1.*", "0.*"]).attach(trainer, every=2)
    before, output = state_of(net[0]), copy.deepcopy(net).eval()[0](make_batches()[0][0])
    seen = []

    @trainer.on(Events.ITERATION_COMPLETED)
    def look() -> None:
        seen.append(same(before, state_of(net[0])))

    @trainer.on(Events.EPOCH_COMPLETED(once=2))
    def compare() -> None:
        assert torch.equal(output, copy.deepcopy(net).eval()[0](make_batches()[0][0]))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer.run(make_batches(), max_epochs=3)
    assert seen == [True] * 8 + [False] * 4


@pytest.mark.parametrize("name", LAYERS)
def test_a_resume_continues_bit_for_bit(name: str) -> None:
    """Six epochs are three, and three more with the model's and the trainer's state in a new model."""

    def run(epochs: list[int]) -> dict[str, torch.Tensor]:
        states: dict[str, Any] = {}
        for until in epochs:
            net = make_net(name)
            trainer, optimizer = make_trainer(net)
            ParameterFreezer(net, "0.*").attach(trainer)
            parts = {"net": net, "trainer": trainer, "optimizer": optimizer}
            for key, state in states.items():
                parts[key].load_state_dict(state)
            trainer.run(make_batches(), max_epochs=until)
            states = {key: copy.deepcopy(part.state_dict()) for key, part in parts.items()}
        return states["net"]

    assert same(run([6]), run([3, 6]))


@pytest.mark.parametrize("event", [Events.STARTED, Events.EPOCH_STARTED, Events.EPOCH_COMPLETED(once=1)])
def test_what_is_loaded_between_iterations_stays(event: Any) -> None:
    """Weights that a handler loads, before or after the freeze, are not taken for a change of the layer's own."""
    net, other = make_net("in place"), make_net("in place")
    other[0].scale.fill_(7.0)
    trainer, _ = make_trainer(net)
    ParameterFreezer(net, "0.*").attach(trainer)
    trainer.add_event_handler(event, lambda: net.load_state_dict(other.state_dict()))
    trainer.run(make_batches(), max_epochs=2)
    expected = torch.full((4,), 7.0)
    assert torch.equal(net[0].scale, expected)


def test_an_unfreeze_within_an_iteration_comes_after_the_buffers_are_put_back() -> None:
    """The iteration that unfreezes leaves no trace of its forward pass, which was a frozen layer's."""
    net = make_net("in place")
    trainer, _ = make_trainer(net)
    ParameterFreezer(net, "0.*").attach(trainer, unfreeze=Events.ITERATION_COMPLETED(once=3))
    before = state_of(net[0])["scale"]
    trainer.run(make_batches()[:3])
    assert torch.equal(net[0].scale.isnan(), before.isnan())


def test_only_what_changes_is_copied_after_two_iterations() -> None:
    """A big buffer that nothing changes costs nothing later, and a cache that is in no state dict is left alone."""
    layer = Averaged(in_place)
    layer.register_buffer("mask", torch.ones(4))
    buffers = FrozenBuffers(layer, ("*",), layer.parameters())
    for count in (2, 2, 1, 1):
        buffers.save()
        assert len(buffers._saved) == count
        layer(torch.ones(2, 4))
        buffers.put_back()
        assert layer.scale.isnan().all()
    assert torch.equal(layer.cache, torch.full((4,), 4.0))


def test_a_checkpoint_of_a_frozen_layer_has_its_buffers(tmp_path: Any) -> None:
    """A checkpoint at the end of an iteration, by a handler attached later, has what the layer had at the freeze."""
    net = make_net("in place")
    trainer, _ = make_trainer(net)
    ParameterFreezer(net, "0.*").attach(trainer)
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED(once=1), ModelCheckpoint(tmp_path, require_empty=False), {"net": net}
    )
    trainer.run(make_batches())
    (path,) = tmp_path.iterdir()
    assert torch.load(path, weights_only=True)["0.scale"].isnan().all()
