"""Which parameters are biases and scales, over torch's own layers, parametrizations and layers of users."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.functional import layer_norm

from ignite_tips import param_groups


class LlamaRMSNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))


class Scaled(nn.Module):
    """A norm by what it does alone: nothing is named after it."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.bias = nn.Parameter(torch.ones(3)), nn.Parameter(torch.zeros(3))


class Block(nn.Module):
    """Calls ``F.layer_norm`` beside a matrix of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.zeros(3))
        self.bias1a, self.debiased = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3, 3))
        self.ln_weight, self.ln_bias = nn.Parameter(torch.ones(3)), nn.Parameter(torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return layer_norm(x @ self.w + self.b, (3,), self.ln_weight, self.ln_bias)


class NormedLinear(nn.Linear):
    """A linear layer with a name that misleads."""


class ChannelNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, 3, 1, 1))


class Half(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 2


def halved(layer: nn.Module, name: str) -> nn.Module:
    return nn.utils.parametrize.register_parametrization(layer, name, Half())


# The layer; its biases; what is a norm's in addition; what keeps its decay.
LAYERS: dict[str, tuple[Callable[[], nn.Module], str, str, str]] = {
    "Linear": (lambda: nn.Linear(2, 3), "bias", "", "weight"),
    "Linear of one row": (lambda: nn.Linear(3, 1), "bias", "", "weight"),
    "LazyLinear": (lambda: nn.LazyLinear(3), "bias", "", "weight"),
    "Conv2d": (lambda: nn.Conv2d(3, 1, 1), "bias", "", "weight"),
    "Bilinear": (lambda: nn.Bilinear(2, 3, 4), "bias", "", "weight"),
    "Embedding": (lambda: nn.Embedding(1, 3), "", "", "weight"),
    "MultiheadAttention": (
        lambda: nn.MultiheadAttention(4, 2, add_bias_kv=True),
        "in_proj_bias bias_k bias_v out_proj.bias",
        "",
        "in_proj_weight out_proj.weight",
    ),
    "GRU": (lambda: nn.GRU(2, 3), "bias_ih_l0 bias_hh_l0", "", "weight_ih_l0 weight_hh_l0"),
    "LSTM": (
        lambda: nn.LSTM(2, 3, proj_size=2),
        "bias_ih_l0 bias_hh_l0",
        "",
        "weight_ih_l0 weight_hh_l0 weight_hr_l0",
    ),
    "LSTMCell": (lambda: nn.LSTMCell(2, 3), "bias_ih bias_hh", "", "weight_ih weight_hh"),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(3), "bias", "weight", ""),
    "SyncBatchNorm": (lambda: nn.SyncBatchNorm(3), "bias", "weight", ""),
    "LazyBatchNorm2d": (lambda: nn.LazyBatchNorm2d(), "bias", "weight", ""),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(3, affine=True), "bias", "weight", ""),
    "GroupNorm": (lambda: nn.GroupNorm(1, 3), "bias", "weight", ""),
    "LayerNorm of two dimensions": (lambda: nn.LayerNorm([2, 3]), "bias", "weight", ""),
    "RMSNorm": (lambda: nn.RMSNorm(3), "", "weight", ""),
    "PReLU": (lambda: nn.PReLU(3), "", "weight", ""),
    "RMSNorm of a language model": (LlamaRMSNorm, "", "weight", ""),
    "norm of another name": (Scaled, "bias", "gain", ""),
    "F.layer_norm": (Block, "ln_bias bias1a", "ln_weight b", "w debiased"),
    "NormedLinear": (lambda: NormedLinear(8, 2), "bias", "", "weight"),
    "weight_norm": (
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(2, 3)),
        "bias",
        "parametrizations.weight.original0",
        "parametrizations.weight.original1",
    ),
    "old weight_norm": (
        lambda: torch.nn.utils.weight_norm(nn.Conv1d(2, 3, 1), dim=1),
        "bias",
        "weight_g",
        "weight_v",
    ),
    "spectral_norm": (
        lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(2, 3)),
        "bias",
        "",
        "parametrizations.weight.original",
    ),
    "parametrized bias": (
        lambda: halved(nn.Linear(2, 3), "bias"),
        "parametrizations.bias.original",
        "",
        "weight",
    ),
    "parametrized norm": (lambda: halved(nn.LayerNorm(3), "weight"), "bias", "parametrizations.weight.original", ""),
}


def undecayed(layer: nn.Module, *wanted: str) -> set[str]:
    groups = param_groups(layer, {}, default={"weight_decay": 0.1}, no_decay=wanted)
    return {name for group in groups if group["weight_decay"] == 0 for name in group["param_names"]}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("name", LAYERS)
def test_biases_and_norms_are_what_the_docstring_says(name: str) -> None:
    """Found by the layer, the parametrization or the dimensions; every other parameter keeps its weight decay."""
    make, *expected = LAYERS[name]
    biases, scales, rest = (set(names.split()) for names in expected)
    layer = make()
    assert undecayed(layer, "biases") == biases
    assert undecayed(layer, "biases", "norms") == biases | scales
    assert {name for name, _ in layer.named_parameters()} == biases | scales | rest
    # A norm's own biases are the norm's too.
    assert undecayed(layer, "norms") == scales | (set() if rest or not scales else biases)


def test_a_scale_that_is_not_found_is_told_and_may_be_named() -> None:
    """A scale of several dimensions in a class that is named as a norm is warned about, and a pattern ends that."""
    net = nn.Sequential(nn.Linear(3, 3), ChannelNorm(), NormedLinear(3, 3))
    with pytest.warns(UserWarning, match=r"no_decay='norms' does not find 1.gain, which look like scales") as caught:
        assert undecayed(net, "norms") == set()
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert undecayed(net, "norms", "1.gain") == {"1.gain"}
        assert undecayed(net, "biases") == {"0.bias", "2.bias"}


def test_layers_inside_wrappers_and_shared_ones_are_found() -> None:
    """A wrapped model and a layer in two places give the names of param_groups."""
    norm = nn.LayerNorm(3)
    net = nn.Sequential(nn.Linear(3, 3), norm, norm)
    for model in (net, nn.DataParallel(net), torch.compile(net, backend="eager")):
        assert undecayed(model, "biases", "norms") == {"0.bias", "1.weight", "1.bias"}
