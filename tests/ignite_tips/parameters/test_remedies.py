"""Remedies that errors and warnings about parameters and summaries name: each is followed and works."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import nn

from ignite_tips import AdaptiveGradientClipper, param_groups, select_parameters, summarize_model


class _Model(nn.Sequential):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(2, 2)
        self.head = nn.Linear(2, 1)


class _ScaleNorm(nn.Module):
    """Scales by a parameter of several dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 1, 1))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values * self.weight


def _rule_missing(follow: str) -> None:
    rules = {"body.*": {"lr": 0.1}} | ({"head.*": {}} if follow == "rule" else {})
    groups = param_groups(_Model(), rules, **({"default": {}} if follow == "default" else {}))
    assert [group.get("lr") for group in groups] == [0.1, None]


def _pattern_missing(follow: str) -> None:
    assert len(select_parameters(_Model(), "body.*" if follow else "bodi.*")) == 2


def _other_model(follow: str) -> None:
    model, other = _Model(), _Model()
    AdaptiveGradientClipper(torch.optim.SGD(model.parameters(), lr=0.1), model=model if follow else other)


def _scales(follow: str) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), _ScaleNorm())
    names = ("biases", "norms", "1.weight") if follow else ("biases", "norms")
    groups = param_groups(model, {"*": {"weight_decay": 0.1}}, no_decay=names)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert [len(group["params"]) for group in groups] == [1, 2]


def _no_input(follow: str) -> None:
    summary = summarize_model(_Model(), input_size=(1, 2)) if follow == "size" else None
    if follow == "example":
        summary = summarize_model(_Model(), torch.ones(1, 2))
    if summary is None:
        summary = summarize_model(_Model())
    assert summary.layers


def _not_floats(follow: str) -> None:
    model = nn.Sequential(nn.Embedding(4, 2), nn.Linear(2, 1))
    words = torch.tensor([[0, 1]])
    assert (summarize_model(model, words) if follow else summarize_model(model, words, backend="torchsummary")).layers


REMEDIES: dict[str, tuple[Callable[[str], None], str, str]] = {
    "rule": (_rule_missing, "rule", "add a rule"),
    "default": (_rule_missing, "default", "or default={} for the optimizer's own options"),
    "pattern": (_pattern_missing, "pattern", "did you mean 'body.*'?"),
    "other model": (_other_model, "model", "pass the model whose parameters it updates"),
    "scales": (_scales, "name", "if they scale, add them to no_decay by name"),
    "no input: size": (_no_input, "size", "input_size must be given"),
    "no input: example": (_no_input, "example", "or an example of the input"),
    "backend": (_not_floats, "leave out", "leave backend out to see this model"),
}


@pytest.mark.parametrize("case", REMEDIES)
def test_the_remedy_works(case: str) -> None:
    """The scenario fails or warns with the remedy, and succeeds without a warning once the remedy is followed."""
    scenario, how, remedy = REMEDIES[case]
    with pytest.raises((TypeError, ValueError, RuntimeError, UserWarning), match=re.escape(remedy)):
        scenario("")
    scenario(how)
