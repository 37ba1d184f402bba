"""Modules held in eval mode: through every train(), replaced or nested, and never in a copy."""

import copy
import gc
import inspect
import io
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn

from ignite_tips.freezing import held_statistics
from ignite_tips.freezing.frozen_parameters import freeze_parameters, unfreeze_parameters
from tests.settings import seeded

TRAIN = inspect.unwrap(nn.Module.train)


@pytest.fixture(autouse=True)
def _nothing_is_held_yet() -> None:
    """Forget frozen models that earlier tests in this process left behind, in caches of torch.compile for example."""
    held_statistics._holds.clear()
    held_statistics._uninstall_if_unused()


def make_net() -> nn.Sequential:
    torch.manual_seed(seeded())
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def make_batch(seed: int = 1) -> torch.Tensor:
    return 5 + torch.randn(16, 4, generator=torch.Generator().manual_seed(seeded(seed)))


def buffers(module: nn.Module) -> list[torch.Tensor]:
    return [buffer.clone() for buffer in module.buffers()]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def through_torch_save(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def through_modules(model: nn.Module) -> nn.Module:
    """Copy the module that holds statistics alone, and build the rest anew."""
    net = make_net()
    net[1] = copy.deepcopy(model[1])
    return net


COPIES: dict[str, Callable[[nn.Module], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": through_torch_save,
    "AveragedModel": lambda model: AveragedModel(model).module,
    "a part": through_modules,
    "a copy of a copy": lambda model: pickle.loads(pickle.dumps(copy.deepcopy(model))),
}


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_of_a_frozen_model_is_an_ordinary_model(way: str) -> None:
    """Whatever made the copy, its train() trains it, also while the original is held, and the original stays held."""
    net = make_net()
    frozen = freeze_parameters(net, "*")
    twin = COPIES[way](net)
    before = buffers(net), buffers(twin)
    assert twin.train() is twin
    assert all(module.training for module in twin.modules())
    twin(make_batch())
    net.train()(make_batch())
    assert not same(before[1], buffers(twin))
    assert same(before[0], buffers(net))
    unfreeze_parameters(frozen)
    assert not twin.eval()[1].training
    assert net.train()[1].training


def test_update_bn_of_an_average_of_a_frozen_model_is_that_of_an_unfrozen_one() -> None:
    """update_bn sets the statistics of a copy that was taken while all was frozen, as it does without a freeze."""
    expected = AveragedModel(make_net())
    net = make_net()
    freeze_parameters(net, "*")
    averaged = AveragedModel(net)
    averaged.update_parameters(net)
    for model in (expected, averaged):
        update_bn([make_batch(seed) for seed in range(3)], model)
    assert same(buffers(expected.module), buffers(averaged.module))


def test_a_pickle_of_a_frozen_model_loads_without_this_package(tmp_path: Path) -> None:
    """A process that cannot import ignite_tips loads and trains what torch.save(model) wrote during a freeze."""
    net = make_net()
    freeze_parameters(net, "*")
    torch.save(net, tmp_path / "net.pt")
    code = (
        "import sys; sys.modules['ignite_tips'] = None\n"
        "import torch\n"
        f"net = torch.load({str(tmp_path / 'net.pt')!r}, weights_only=False).train()\n"
        "assert net[1].training and 'train' not in net[1].__dict__\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_nothing_is_put_on_a_module() -> None:
    """A held module has the attributes and hooks that it had, and torch has its own train() back in the end."""
    net = make_net()
    before = [(set(vars(module)), type(module)) for module in net.modules()]
    frozen = freeze_parameters(net, "*")
    assert [(set(vars(module)), type(module)) for module in net.modules()] == before
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in net.modules())
    unfreeze_parameters(frozen)
    assert nn.Module.train is TRAIN


@pytest.mark.parametrize("when", ["before", "after", "after, without parameters"])
def test_what_convert_sync_batchnorm_puts_in_its_place_is_held(when: str) -> None:
    """A SyncBatchNorm holds the statistics of the BatchNorm that it replaced before or after the freeze."""
    net = make_net()
    if "without" in when:
        net[1] = nn.BatchNorm1d(3, affine=False)
    if when == "before":
        net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    frozen = freeze_parameters(net, ["0.*", "[01].*"])
    if when != "before":
        net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    assert isinstance(net[1], nn.SyncBatchNorm)
    before = buffers(net)
    for _ in range(2):
        net.train()(make_batch())
        assert [module.training for module in net] == [True, False, True]
    assert same(before, buffers(net))
    assert not net.eval()[1].training
    net.train()
    unfreeze_parameters(frozen)
    assert net[1].training
    assert not net.eval()[1].training
    assert net.train()[1].training


def test_a_norm_converted_after_its_last_train_trains_on_after_the_unfreeze() -> None:
    """Where no train() came between conversion and unfreeze, the new module gets the mode of the old one."""
    net = make_net()
    frozen = freeze_parameters(net, "1.*")
    net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    unfreeze_parameters(frozen)
    assert net[1].training
    assert nn.Module.train is TRAIN


def test_another_module_in_its_place_is_not_held() -> None:
    """A new BatchNorm with parameters to train is no part of what was frozen."""
    net = make_net()
    frozen = freeze_parameters(net, "1.*")
    old, net[1] = net[1], nn.BatchNorm1d(3)
    assert net.train()[1].training
    unfreeze_parameters(frozen)
    assert old.training


class StubbornNorm(nn.BatchNorm1d):
    """A norm whose train() does not call super()."""

    def train(self, mode: bool = True) -> nn.Module:
        self.training = mode
        return self


class HalfFrozen(nn.Sequential):
    """A network that keeps its norm in eval mode by itself, as people write it."""

    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        self[1].eval()
        return self


def test_a_train_of_the_users_own_is_followed() -> None:
    """A norm's own train() is overruled where its parent calls it; a parent's own eval() of it is remembered."""
    net = make_net()
    net[1] = StubbornNorm(3)
    freeze_parameters(net, "1.*")
    assert not net.train()[1].training
    half = HalfFrozen(*make_net())
    frozen = freeze_parameters(half, "1.*")
    assert not half.train()[1].training
    unfreeze_parameters(frozen)
    assert not half[1].training
    assert nn.Module.train(half)[1].training


def test_freezes_of_one_norm_may_end_in_any_order() -> None:
    """A norm is free when the last of the freezes that hold it ends, with the mode asked for last."""
    net = make_net()
    first, second = freeze_parameters(net, "1.*"), freeze_parameters(net, ["0.*", "1.*"])
    unfreeze_parameters(first)
    assert not net.train()[1].training
    unfreeze_parameters(second)
    assert net[1].training
    first, second = freeze_parameters(net, "1.*"), freeze_parameters(net[1], "*")
    net.eval()
    unfreeze_parameters(second)
    assert not net.train()[1].training
    unfreeze_parameters(first)
    assert net[1].training


def test_a_norm_in_two_places_is_held_in_both() -> None:
    """A shared norm is held once, and what replaces it in either place is held too."""
    net = make_net()
    net.append(nn.Sequential(nn.Linear(2, 3), net[1]))
    frozen = freeze_parameters(net, "1.*")
    assert not net.train()[1].training
    nn.SyncBatchNorm.convert_sync_batchnorm(net)
    net.train()
    assert [net[1].training, net[3][1].training] == [False, False]
    unfreeze_parameters(frozen)
    assert [net[1].training, net[3][1].training] == [True, True]


SPECTRAL: dict[str, Callable[[nn.Module], nn.Module]] = {
    "old": nn.utils.spectral_norm,
    "new": nn.utils.parametrizations.spectral_norm,
}


@pytest.mark.parametrize("kind", SPECTRAL)
@pytest.mark.parametrize("pattern", ["0.*", "0.[wbp]*[!u]"])
def test_spectral_norm_stays_as_it_is(kind: str, pattern: str) -> None:
    """A frozen layer under either spectral norm gives the same output through train(), and moves again afterwards.

    It is so by its parameters alone, whether or not the patterns match the buffers.
    """
    torch.manual_seed(seeded())
    net = nn.Sequential(SPECTRAL[kind](nn.Linear(4, 8)), nn.Linear(8, 1))
    frozen = freeze_parameters(net, pattern)
    x = make_batch()
    expected, before = net.eval()[0](x), buffers(net)
    for _ in range(3):
        net.train()
        assert torch.equal(net[0](x), expected)
    assert same(before, buffers(net))
    unfreeze_parameters(frozen)
    with torch.no_grad():  # the vectors may have converged for the old weight
        for parameter in net[0].parameters():
            parameter.normal_()
    net(x)
    assert not same(before, buffers(net))


def test_functional_call_keeps_what_is_held() -> None:
    """A call with other parameters and buffers leaves the statistics that it is given as they are."""
    net = make_net()
    freeze_parameters(net, "1.*")
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    torch.func.functional_call(net.train(), state, (make_batch(),))
    assert same(list(state.values()), list(net.state_dict().values()))


def test_a_hold_keeps_no_model_alive() -> None:
    """A frozen model that nobody has any more goes."""
    net = make_net()
    freeze_parameters(net, "*")
    reference = weakref.ref(net[1])
    del net
    gc.collect()
    assert reference() is None


def test_a_train_wrapped_around_ours_meanwhile_stays() -> None:
    """Another library's patch of train(), made during a freeze, outlives it, and a second freeze holds through it."""
    net, calls = make_net(), []
    frozen = freeze_parameters(net, "1.*")
    ours = nn.Module.train

    def counted(self: nn.Module, mode: bool = True) -> nn.Module:
        calls.append(self)
        return ours(self, mode)

    nn.Module.train = counted
    unfreeze_parameters(frozen)
    assert nn.Module.train is counted
    frozen = freeze_parameters(net, "1.*")
    assert not net.train()[1].training
    assert len(calls) == 4
    nn.Module.train = ours
    unfreeze_parameters(frozen)
    assert nn.Module.train is TRAIN


@pytest.mark.parametrize("name", ["_forward_pre_hooks", "_modules", "_non_persistent_buffers_set"])
def test_torch_has_the_attributes(name: str) -> None:
    """Each private attribute of a module that freezing/held_statistics.py reads is there."""
    assert hasattr(nn.Linear(1, 1), name), (
        f"torch's Module has no {name} any more; freezing/held_statistics.py needs another way"
    )
