"""Selecting parameters by name."""

import ast
from typing import Any

import pytest
import torch
from torch import nn

from ignite_tips.parameters.selection import (
    as_patterns,
    named_parameters,
    select_parameters,
    unwrap_model,
)


def make_net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2), nn.BatchNorm1d(2, affine=False))


def make_tied() -> nn.Module:
    net = nn.ModuleDict({"embedding": nn.Embedding(5, 3), "head": nn.Linear(3, 5)})
    net["head"].weight = net["embedding"].weight
    return net


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ("*.bias", ["0.bias", "1.bias", "2.bias"]),
        (["2.*", "0.weight"], ["0.weight", "2.weight", "2.bias"]),
        ((pattern for pattern in ("[01].weight",)), ["0.weight", "1.weight"]),
        ("*", ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"]),
    ],
)
def test_patterns_select_by_name_in_the_models_order(patterns: Any, names: list[str]) -> None:
    """One glob, several, or a generator of them select parameters in the order of the model."""
    assert list(select_parameters(make_net(), patterns)) == names


def test_a_shared_parameter_has_any_of_its_names() -> None:
    """A tied weight is found by each of its names, and returned once, under the first."""
    net = make_tied()
    assert list(named_parameters(net)) == ["embedding.weight", "head.bias"]
    assert list(select_parameters(net, "head.weight")) == ["embedding.weight"]
    assert list(select_parameters(net, "head.*")) == ["embedding.weight", "head.bias"]


def test_wrappers_are_looked_through() -> None:
    """The names are those of the user's module inside torch.compile and DataParallel."""
    net = make_net()
    wrapped = nn.DataParallel(torch.compile(net))
    assert unwrap_model(wrapped) is net
    assert list(select_parameters(wrapped, "0.*")) == ["0.weight", "0.bias"]


@pytest.mark.parametrize(
    ("model", "patterns", "error", "message"),
    [
        (make_net(), "encodr.*", ValueError, r"pattern 'encodr\.\*' matches no parameter; names start with: 0\.weight"),
        (make_net(), ["0.*", "7.*"], ValueError, r"pattern '7\.\*' matches no parameter"),
        (make_net(), [], ValueError, "patterns must have at least one pattern, got none"),
        (make_net(), ["0.*", 3], TypeError, "patterns must be strings, got 3"),
        (make_net(), 3, TypeError, r"patterns must be a string or several, got 3 \(int\)"),
        (nn.ReLU(), "*", ValueError, "model must have parameters, got none in ReLU"),
        (make_net().parameters(), "*", TypeError, "model must be a torch.nn.Module, got an instance of generator"),
    ],
)
def test_bad_selections_are_errors(model: Any, patterns: Any, error: type[Exception], message: str) -> None:
    """Patterns that match nothing, an empty model and wrong types are one sentence each."""
    with pytest.raises(error, match=message):
        select_parameters(model, patterns)


def test_a_generator_passed_twice_is_an_error() -> None:
    """A generator that is used up selects nothing, which is said."""
    patterns = (pattern for pattern in ["0.*"])
    assert as_patterns(patterns) == ("0.*",)
    with pytest.raises(ValueError, match="at least one pattern, got none"):
        select_parameters(make_net(), patterns)


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        ("features", "'features.*'"),
        ("module.features.*", "'features.*'"),
        ("featuers.*", "'features.*'"),
        ("features.0.wieght", "'features.0.weight'"),
        ("head.b", "'head.b*'"),
        ("bias", "'*.bias'"),
        ("features.*, head.*", r"\['features.*', 'head.*'\]"),
        ("^features.*", "'features.*'"),
    ],
)
def test_a_pattern_that_nearly_matches_is_told_what_was_meant(pattern: str, meant: str) -> None:
    """Each remedy selects something."""
    model = nn.Sequential()
    model.features, model.head = nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 1)
    with pytest.raises(ValueError, match=rf"did you mean {meant.replace('*', '[*]')}\? Names start with") as caught:
        select_parameters(model, pattern)
    remedy = str(caught.value).partition("did you mean ")[2].partition("? Names")[0]
    assert select_parameters(model, ast.literal_eval(remedy))
