"""Remedies that errors of param groups and selections name: each is followed and works."""

import torch
from torch import nn

from ignite_tips import GradientNormClipper, param_group_table, param_groups
from tests.remedies import says


def test_parameters_that_no_rule_matches() -> None:
    """A rule for them or a default makes a group for each."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    rules = {"0.*": {"lr": 0.1}}
    with says("add a rule, or default={} for the optimizer's own options"):
        param_groups(model, rules)
    added = torch.optim.SGD(param_groups(model, rules | {"1.*": {"lr": 0.2}}), lr=0.3)
    default = torch.optim.SGD(param_groups(model, rules, default={}), lr=0.3)
    for optimizer, lr in ((added, 0.2), (default, 0.3)):
        assert [group["lr"] for group in optimizer.param_groups] == [0.1, lr]
        assert optimizer.param_groups[1]["params"] == list(model[1].parameters())


def test_an_optimizer_of_another_model() -> None:
    """The model whose parameters it updates is named instead."""
    model, other = nn.Linear(2, 1), nn.Linear(2, 1)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    for use in (lambda m: param_group_table(m, optimizer), lambda m: GradientNormClipper(optimizer, 1.0, model=m)):
        with says("pass the model whose parameters it updates"):
            use(model)
        use(other)
