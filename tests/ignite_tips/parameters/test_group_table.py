"""The table of parameters: as text, as HTML, merged."""

import os
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LinearLR

from ignite_tips import param_group_table, param_groups


def _tied() -> nn.Sequential:
    net = nn.Sequential()
    net.embedding = nn.Embedding(5, 3)
    net.body = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    net.head = nn.Linear(3, 5)
    net.head.weight = net.embedding.weight
    return net


def _text(*arguments: Any, **options: Any) -> list[str]:
    return str(param_group_table(*arguments, **options)).splitlines()


def test_the_table_lists_what_patterns_can_match() -> None:
    """Name, shape, group, rate and frozen, for parameters in no group and of no shape too."""
    net = nn.Sequential(nn.Linear(2, 3), nn.LazyLinear(1))
    net.scale = nn.Parameter(torch.tensor(1.0), requires_grad=False)
    optimizer = torch.optim.SGD([{"params": [net[0].weight], "name": "first"}], lr=0.25)
    assert _text(net, optimizer) == [
        "name      shape          group   lr    frozen",
        "scale     scalar         (none)        yes",
        "0.weight  3\u00d72            first   0.25",
        "0.bias    3              (none)",
        "1.weight  not yet known  (none)",
        "1.bias    not yet known  (none)",
    ]
    assert _text(net)[:2] == ["name      shape          frozen", "scale     scalar         yes"]


def test_a_shared_parameter_has_one_row_with_all_its_names() -> None:
    """The first name is the one under which it is grouped."""
    lines = _text(_tied())
    assert [line.split()[:3] for line in lines if "weight" in line and "body" not in line] == [
        ["embedding.weight", "=", "head.weight"]
    ]
    assert param_group_table(_tied()).rows[0].other_names == ("head.weight",)


def test_merged_rows_say_each_group_and_learning_rate_once() -> None:
    """Names of more parts than ``depth`` share a row, whose name is a pattern for the rules."""
    net = _tied()
    net.body[0].requires_grad_(False)
    optimizer = torch.optim.SGD(param_groups(net, {"body.*": {"lr": 0.1}}, default={"lr": 0.1}, no_decay="biases"))
    assert _text(net, optimizer, depth=1) == [
        "name                            shape      group                lr   frozen",
        "embedding.weight = head.weight  5\u00d73        default              0.1",
        "body.*                          4 tensors  body, body-no_decay  0.1  partly",
        "head.bias                       5          default-no_decay     0.1",
    ]
    assert [line.split()[0] for line in _text(net, optimizer, depth=2)[2:4]] == ["body.0.*", "body.2.*"]
    assert _text(net, optimizer, depth=3) == _text(net, optimizer)


def test_the_base_learning_rate_is_beside_the_first_of_a_warm_up() -> None:
    """And beside any that a schedule has changed; without a change it is not repeated."""
    net = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(param_groups(net, {"weight": {"lr": 0.2}}, default={}), lr=0.1)
    LinearLR(optimizer, start_factor=0.25)
    optimizer.param_groups[1]["lr"] = 0.1
    assert [line.split()[3:] for line in _text(net, optimizer)[1:]] == [["0.05", "(base", "0.2)"], ["0.1"]]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long name is cut in its middle: its end tells parameters apart."""
    monkeypatch.setattr("shutil.get_terminal_size", lambda fallback: os.terminal_size((width, 24)))
    net = nn.ModuleDict({"a_name_that_nobody_would_want_to_type" * 3: nn.Linear(2, 1)})
    lines = _text(net, torch.optim.SGD(net.parameters(), lr=0.1))
    assert max(map(len, lines)) <= width
    assert all(("…" in line) == (width < 200) for line in lines[1:])
    assert all(line.startswith("a_name") for line in lines[1:])
    assert "type.bias " in lines[2]


def test_a_narrow_terminal_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines then have 60 characters, and the terminal wraps them."""
    monkeypatch.setattr("shutil.get_terminal_size", lambda fallback: os.terminal_size((20, 24)))
    assert len(_text(nn.Linear(2, 1))) == 3


def test_a_notebook_and_a_terminal_show_the_table() -> None:
    """Its repr is its text, and its HTML has the same cells, escaped, with frozen rows paler."""
    net = nn.ModuleDict({"<b>&": nn.Linear(2, 1)})
    net["<b>&"].weight.requires_grad_(False)
    table = param_group_table(net, torch.optim.SGD([{"params": net.parameters(), "name": "<i>"}], lr=0.1))
    page = ElementTree.fromstring(f"<div>{table._repr_html_()}</div>")
    cells = [["".join(cell.itertext()) for cell in row] for row in page.iter("tr")]
    assert cells == [
        ["name", "shape", "group", "lr", "frozen"],
        ["<b>&.weight", "1\u00d72", "<i>", "0.1", "yes"],
        ["<b>&.bias", "1", "<i>", "0.1", ""],
    ]
    assert ["opacity" in row[0].attrib["style"] for row in page.iter("tr")] == [False, True, False]
    assert repr(table) == str(table) == f"{table}"
