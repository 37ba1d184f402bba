"""Param groups by name: each parameter in exactly one, by name, with its options."""

import copy
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import Optimizer

from ignite_tips.parameters.groups import group_names, layerwise_lr_groups, param_groups

OPTIMIZERS: list[Callable[..., Optimizer]] = [
    torch.optim.SGD,
    lambda groups, lr: torch.optim.SGD(groups, lr=lr, momentum=0.9, fused=True),
    torch.optim.Adam,
    torch.optim.AdamW,
    lambda groups, lr: torch.optim.AdamW(groups, lr=lr, fused=True),
    torch.optim.RMSprop,
    torch.optim.Adagrad,
]


def make_net() -> nn.Sequential:
    net = nn.Sequential()
    net.stem = nn.Linear(2, 4)
    net.body = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4))
    net.head = nn.Linear(4, 2)
    return net


def as_names(groups: list[dict[str, Any]]) -> dict[str, list[str]]:
    return {group["name"]: group["param_names"] for group in groups}


@pytest.mark.parametrize("make_optimizer", OPTIMIZERS)
def test_groups_work_for_any_optimizer_and_keep_their_names(make_optimizer: Callable[..., Optimizer]) -> None:
    """Names and parameter names are in the optimizer's groups, in its state dict, and there after loading."""
    net = make_net()
    rules = {"stem.*": {"lr": 0.1}, "body.*": {"lr": 0.2}}
    optimizer = make_optimizer(param_groups(net, rules, default={}), lr=0.3)
    net(torch.randn(3, 2)).sum().backward()
    optimizer.step()
    fresh = make_optimizer(param_groups(copy.deepcopy(net), rules, default={}), lr=0.5)
    fresh.load_state_dict(optimizer.state_dict())
    for each in (optimizer, fresh):
        assert group_names(each) == ["stem", "body", "default"]
        assert [group["lr"] for group in each.param_groups] == [0.1, 0.2, 0.3]
        assert each.param_groups[2]["param_names"] == ["head.weight", "head.bias"]


def test_weight_decay_is_off_for_biases_norms_and_patterns() -> None:
    """They are in sub-groups with readable names, and only such groups exist as have members."""
    groups = param_groups(
        make_net(),
        {"body.*": {"lr": 0.1, "weight_decay": 0.05}},
        default={"name": "rest", "weight_decay": 0.01},
        no_decay=("biases", "norms", "stem.weight"),
    )
    assert as_names(groups) == {
        "body": ["body.0.weight", "body.2.weight"],
        "body-no_decay": ["body.0.bias", "body.1.weight", "body.1.bias", "body.2.bias"],
        "rest": ["head.weight"],
        "rest-no_decay": ["stem.weight", "stem.bias", "head.bias"],
    }
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0, 0.01, 0.0]
    only_norm = param_groups(make_net(), {"body.1.*": {}}, default={}, no_decay="norms")
    assert list(as_names(only_norm)) == ["body.1-no_decay", "default"]


def test_norms_of_other_libraries_count() -> None:
    """A layer that is a norm by name alone, such as an RMSNorm of a language model, is one."""

    class LlamaRMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

    net = nn.Sequential(nn.Linear(3, 3, bias=False), LlamaRMSNorm())
    assert as_names(param_groups(net, {}, default={}, no_decay="norms")) == {
        "default": ["0.weight"],
        "default-no_decay": ["1.weight"],
    }


def test_frozen_and_shared_parameters_are_in_one_group_each() -> None:
    """A frozen parameter has its group for when it is unfrozen, and a tied one appears once."""
    net = nn.ModuleDict({"embedding": nn.Embedding(5, 3), "head": nn.Linear(3, 5)})
    net["head"].weight = net["embedding"].weight
    net["embedding"].requires_grad_(False)
    groups = param_groups(net, {"embedding.*": {"lr": 0.1}}, default={})
    assert as_names(groups) == {"embedding": ["embedding.weight"], "default": ["head.bias"]}
    with pytest.raises(
        ValueError, match=r"'embedding.weight' must match one pattern, got 'embedding.\*' and 'head.\*'"
    ):
        param_groups(net, {"embedding.*": {}, "head.*": {}})


@pytest.mark.parametrize(
    ("rules", "options", "error", "message"),
    [
        ({"encodr.*": {}}, {"default": {}}, ValueError, r"pattern 'encodr.\*' matches no parameter; names start with"),
        ({"body.*": {}, "*.bias": {}}, {"default": {}}, ValueError, r"'body.0.bias' must match one pattern, got 'body"),
        ({"body.*": {}}, {}, ValueError, "nothing matches: stem.weight, stem.bias, head.weight, head.bias; add a rule"),
        ({"body.*": {}, "stem.*": {"name": "body"}}, {"default": {}}, ValueError, "names, got 'body' twice"),
        ({"body.*": {"params": []}}, {"default": {}}, ValueError, "must not have 'params', which the patterns decide"),
        ({"body.*": {"name": 3}}, {"default": {}}, TypeError, "must have a string as 'name', got 3"),
        ({"body.*": 0.1}, {"default": {}}, TypeError, r"options of 'body.\*' must be a mapping, got 0.1"),
        ({}, {"default": 0.1}, TypeError, "default must be a mapping, got 0.1"),
        (["body.*"], {}, TypeError, r"rules must be a mapping from pattern to options, got \['body"),
        ({3: {}}, {"default": {}}, TypeError, "rules must be strings, got 3"),
        ({}, {"default": {}, "no_decay": "bais"}, ValueError, "pattern 'bais' matches no parameter"),
    ],
)
def test_bad_rules_are_errors_that_name_the_parameters(
    rules: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """Overlap, patterns for nothing, left-over parameters and wrong types are refused in one sentence."""
    with pytest.raises(error, match=message):
        param_groups(make_net(), rules, **options)


def test_an_empty_model_and_parameters_instead_of_a_model_are_errors() -> None:
    """A model without parameters has no groups, and a generator of parameters has no names."""
    with pytest.raises(ValueError, match="model must have parameters, got none in ReLU"):
        param_groups(nn.ReLU(), {}, default={})
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got an instance of generator"):
        param_groups(make_net().parameters(), {}, default={})  # type: ignore[arg-type]


def test_layerwise_rates_are_those_of_beit_and_mae() -> None:
    """With layer ids as in BEiT, id 0 for the embedding and blocks + 1 for the rest, lr is lr · decay^(n - id)."""
    net = nn.ModuleDict(
        {"embed": nn.Linear(2, 2), "blocks": nn.ModuleList(nn.Linear(2, 2) for _ in range(3)), "head": nn.Linear(2, 2)}
    )
    layers = ["embed.*", "blocks.0.*", "blocks.1.*", "blocks.2.*"]
    groups = layerwise_lr_groups(net, layers, lr=1e-3, decay=0.65, no_decay="biases", weight_decay=0.05)
    last = len(net["blocks"]) + 1
    expected = [1e-3 * 0.65 ** (last - layer_id) for layer_id in (0, 1, 2, 3, 4) for _ in range(2)]
    assert [group["lr"] for group in groups] == expected
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0] * 5
    assert group_names(torch.optim.AdamW(groups))[-2:] == ["rest", "rest-no_decay"]


@pytest.mark.parametrize("as_lr", [float, torch.tensor, np.float32, Fraction, Decimal])
def test_a_rate_is_a_number_of_any_kind(as_lr: Callable[[float], Any]) -> None:
    """Schedulers move each group's learning rate as they do for a float; a tensor is each group's own."""
    net = make_net()
    layered = layerwise_lr_groups(net, ["stem.*", "body.*"], lr=as_lr(0.5), decay=0.5, no_decay="biases")
    named = param_groups(net, {"stem.*": {"lr": as_lr(0.5)}}, default={"lr": as_lr(0.5)}, no_decay="biases")
    for groups, expected in ((layered, [0.125, 0.125, 0.25, 0.25, 0.5, 0.5]), (named, [0.5] * 4)):
        assert [float(group["lr"]) for group in groups] == expected
        assert len({id(group["lr"]) for group in groups}) == len(groups) or as_lr is not torch.tensor
    optimizer = torch.optim.SGD(layered)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    optimizer.step()
    scheduler.step()
    assert [float(group["lr"]) for group in optimizer.param_groups] == [0.0625, 0.0625, 0.125, 0.125, 0.25, 0.25]


def test_a_layer_may_have_several_patterns_and_nothing_may_be_left() -> None:
    """Patterns of one layer share a group, and there is no rest where nothing is left."""
    groups = layerwise_lr_groups(make_net(), [["stem.*", "body.0.*"], "body.[12].*", "head.*"], lr=1.0, decay=0.5)
    assert [(group["name"], group["lr"]) for group in groups] == [
        ("stem-body.0", 0.125),
        ("body.[12]", 0.25),
        ("head", 0.5),
    ]


@pytest.mark.parametrize(
    ("layers", "options", "error", "message"),
    [
        ("stem.*", {}, TypeError, r"layers must be a list of patterns, got 'stem.\*'"),
        (
            (pattern for pattern in ["stem.*"]),
            {},
            TypeError,
            "layers must be a list of patterns, got an instance of generator",
        ),
        ([[]], {}, ValueError, "layers must have at least one pattern, got none"),
        (["stem.*", "stem.*"], {}, ValueError, r"layers must have different patterns, got 'stem.\*' twice"),
        (["stem.*"], {"decay": 1.5}, ValueError, "decay must be > 0 and <= 1, got 1.5"),
        (["stem.*"], {"decay": 0}, ValueError, "decay must be > 0 and <= 1, got 0"),
        (["stem.*"], {"lr": -1}, ValueError, "lr must be finite and >= 0, got -1"),
        ([], {}, ValueError, "layers must have at least one pattern, got none"),
        (["stm.*"], {}, ValueError, r"pattern 'stm.\*' matches no parameter"),
    ],
)
def test_bad_layers_are_errors(layers: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    """Rates out of bounds and layers that are no list of patterns are refused."""
    with pytest.raises(error, match=message):
        layerwise_lr_groups(make_net(), layers, **{"lr": 0.1, "decay": 0.5, **options})


def test_two_groups_of_one_name_are_an_error() -> None:
    """Names tell groups apart, so two of the same are refused."""
    first, second = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([{"params": first, "name": "a"}, {"params": second, "name": "a"}], lr=0.1)
    with pytest.raises(ValueError, match="must have different names, got 'a' twice"):
        group_names(optimizer)


def test_names_are_compared_once_for_each_group() -> None:
    """Telling whether names differ does not compare each with every other."""
    comparisons = 0

    class Name(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __str__(self) -> str:
            return self

        def __eq__(self, other: object) -> bool:
            nonlocal comparisons
            comparisons += 1
            return str.__eq__(self, other)

    names = [Name(f"group {index}") for index in range(300)]
    groups = [{"params": nn.Parameter(torch.ones(1)), "name": name} for name in names]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    comparisons = 0
    assert group_names(optimizer) == names
    assert comparisons <= 2 * len(names)


def test_the_model_is_walked_as_often_for_many_rules_as_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are looked up once for all patterns, so that a rule for every layer of a deep model is no wait."""
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(20)))
    walks = []
    walk = nn.Module.named_parameters
    monkeypatch.setattr(nn.Module, "named_parameters", lambda *args, **kw: walks.append(args) or walk(*args, **kw))

    def count(rules: int) -> int:
        walks.clear()
        patterns = [f"{index}.*" for index in range(rules)]
        param_groups(model, {pattern: {} for pattern in patterns}, default={})
        layerwise_lr_groups(model, patterns, lr=0.1, decay=0.9)
        return len(walks)

    assert count(19) == count(1)


@given(
    st.sets(st.sampled_from(["stem.*", "body.0.*", "body.1.*", "body.2.weight", "head.bias"])),
    st.sets(st.sampled_from(["biases", "norms", "head.*", "*.weight"])),
)
def test_every_parameter_is_in_exactly_one_group(patterns: set[str], no_decay: set[str]) -> None:
    """Whatever the rules, the groups hold each parameter of the model once, none empty."""
    net = make_net()
    groups = param_groups(net, {pattern: {"lr": 0.1} for pattern in sorted(patterns)}, default={}, no_decay=no_decay)
    held = [parameter for group in groups for parameter in group["params"]]
    assert sorted(map(id, held)) == sorted(map(id, net.parameters()))
    assert all(group["params"] for group in groups)
    assert all(group["params"] == [dict(net.named_parameters())[n] for n in group["param_names"]] for group in groups)


@pytest.mark.parametrize(
    ("typed", "remedy"),
    [
        ("weight_deacy", "did you mean 'weight_decay'"),
        ("momentm", "did you mean 'momentum'"),
        ("momentun", "did you mean 'momentum'"),
        ("nesterof", "did you mean 'nesterov'"),
        ("epss", "did you mean 'eps'"),
        ("LR", "did you mean 'lr'"),
        ("Lr", "did you mean 'lr'"),
        ("lrr", "did you mean 'lr'"),
        ("learning_rate", "names are as in torch.optim: lr, "),
        ("learn_rate", "names are as in torch.optim: lr, "),
        ("wd", "names are as in torch.optim: lr, weight_decay, "),
    ],
)
def test_an_option_that_no_optimizer_takes_is_warned_about_once(typed: str, remedy: str) -> None:
    """An optimizer would keep it in the group and never read it."""
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    with pytest.warns(UserWarning, match=f"has the option '{typed}', so it is ignored; {remedy}") as caught:
        param_groups(net, {"0.*": {typed: 0.1}, "1.*": {typed: 0.2}})
    assert len(caught) == 1


def test_an_option_of_an_optimizer_of_your_own_is_no_mistake() -> None:
    """Once its class is loaded, param_groups knows what it takes."""

    class Scaled(torch.optim.SGD):
        def __init__(self, params: Any, lr: float, trust_of_a_layer: float = 1.0) -> None:
            super().__init__(params, lr)

    groups = param_groups(nn.Linear(2, 1), {"*": {"trust_of_a_layer": 0.1}})  # no warning
    assert group_names(Scaled(groups, lr=0.1)) == ["*"]


def test_an_optimizer_may_compute_the_learning_rate_itself() -> None:
    """It then takes None."""
    (group,) = param_groups(nn.Linear(2, 1), {"*": {"lr": None}})
    assert group["lr"] is None
