"""ModelSummary's text: golden tables, and readability of large ones."""

import os
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LinearLR

from ignite_tips import LayerSummary, ModelSummary, param_groups, summarize_model

GOLDEN = """\
Layer    Type        Input  Output  Params  Trainable  Group       LR
---------------------------------------------------------------------
(model)  Sequential  16\u00d78   16\u00d72
  0      Linear      16\u00d78   16\u00d74        36  frozen     backbone  0.01
  1      ReLU        16\u00d74   16\u00d74
  2      Linear      16\u00d74   16\u00d72        10  yes        head       0.1
---------------------------------------------------------------------
Parameters: 46 (10 trainable, 36 frozen); 640 mult-adds
Memory: 184 B parameters, 640 B activations, 512 B input; about 1.3 KiB
with gradients"""


def _golden() -> ModelSummary:
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    groups = [
        {"params": model[0].parameters(), "name": "backbone", "lr": 0.01},
        {"params": model[2].parameters(), "name": "head", "lr": 0.1},
    ]
    model[0].requires_grad_(False)
    return summarize_model(model, input_size=(16, 8), optimizer=torch.optim.SGD(groups))


def _deep(blocks: int = 300, name: str = "block") -> ModelSummary:
    layers = [LayerSummary("", "Net", "[1, 8]", "[1, 8]", 0, 0)]
    for index in range(blocks):
        path = f"{name}{index}"
        layers += [
            LayerSummary(path, "Block", "[1, 8]", "[1, 8]", 1, 1),
            LayerSummary(f"{path}.inner", "Inner", "[1, 8]", "[1, 8]", 10, 0),
            LayerSummary(f"{path}.inner.conv", "Conv", "[1, 8]", "[1, 8]", 100, 100),
        ]
    return ModelSummary(tuple(layers), 111 * blocks, 101 * blocks, 0, 0, 0, 0, 0)


def test_the_table_equals_the_golden_one() -> None:
    """Names, shapes, figures, groups and learning rates are in columns, with totals below."""
    assert _golden().table(width=75) == GOLDEN


def test_a_depth_limit_adds_deeper_layers_to_the_one_above() -> None:
    """No number is lost: a layer's figures include everything inside it."""
    summary = _deep()
    by_depth = {depth: summary.table(depth=depth).splitlines() for depth in (1, 2, 3, None)}
    assert [len(lines) for lines in by_depth.values()] == [n + 6 for n in (300, 600, 900, 900)]
    assert by_depth[1][3].split()[-2:] == ["111", "partly"]
    assert by_depth[2][4].split()[-2:] == ["110", "partly"]
    assert by_depth[None][4].split()[-2:] == ["10", "frozen"]
    assert str(summary) == summary.table(depth=3)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wide names are cut if necessary, and marked."""
    monkeypatch.setattr("shutil.get_terminal_size", lambda fallback: os.terminal_size((width, 24)))
    lines = _deep(3, name="a_name_that_nobody_would_want_to_type_" * 3).table().splitlines()
    assert max(map(len, lines)) <= width
    assert any("…" in line for line in lines) == (width < 200)


def test_markdown_has_full_names_and_the_totals() -> None:
    """The table is one that TensorBoard renders."""
    lines = _golden().markdown().splitlines()
    assert lines[0] == "| Layer | Type | Input | Output | Params | Trainable | Group | LR |"
    assert lines[1] == "| --- | --- | --- | --- | ---: | --- | --- | ---: |"
    assert lines[3] == "| `0` | Linear | 16\u00d78 | 16\u00d74 | 36 | frozen | `backbone` | 0.01 |"
    assert "Parameters: 46 (10 trainable, 36 frozen); 640 mult-adds" in lines


def test_large_numbers_are_shortened() -> None:
    """Operations are in words and memory is in binary units."""
    layer = LayerSummary("", "Net", "", "", 0, 0)
    for size, mult_adds, expected in (
        (900, 999, "999 mult-adds\nMemory: 900 B parameters"),
        (10 * 2**20, 4_089_284_608, "4.09 billion mult-adds\nMemory: 10.0 MiB parameters"),
        (3 * 2**40, 2 * 10**15, "2e+03 trillion mult-adds\nMemory: 3.0 TiB parameters"),
    ):
        totals = "\n".join(ModelSummary((layer,), 0, 0, size, 0, 0, 0, 0, mult_adds).totals())
        assert expected in totals


def test_bad_widths_and_depths_are_refused() -> None:
    """The error names the argument."""
    with pytest.raises(ValueError, match="width must be >= 60, got 20"):
        _golden().table(width=20)
    with pytest.raises(ValueError, match="depth must be >= 1, got 0"):
        _golden().table(depth=0)


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 4)
        self.block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.again = self.block
        self.head = nn.Linear(4, 50)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.again(self.block(self.embedding(tokens))))


def test_what_layers_share_is_shown_once() -> None:
    """A module at a second place is one row that names the first; a layer with parameters of its own adds to it."""
    summary = summarize_model(_Tied(), torch.zeros(2, 3, dtype=torch.long))
    lines = summary.table(depth=None).splitlines()[3:-3]
    assert [line.split()[0] for line in lines] == ["embedding", "block", "0", "1", "again", "head"]
    assert "= block" in lines[4]
    assert "50 + embedding  yes" in lines[5]


def test_merged_layers_say_a_learning_rate_once_and_the_base_of_a_warm_up() -> None:
    """Two groups of one learning rate give one number; a schedule's start is beside it."""
    model = _Tied()
    groups = param_groups(
        model, {"block.*": {"lr": 0.2}, "head.bias": {"name": "head", "lr": 0.1}}, default={}, no_decay="biases"
    )
    optimizer = torch.optim.SGD(groups, lr=0.1)
    text = summarize_model(model, torch.zeros(2, 3, dtype=torch.long), optimizer=optimizer).table(depth=1)
    assert re.search(r"block .* block, block-no_decay +0\.2$", text, re.MULTILINE)
    LinearLR(optimizer, start_factor=0.25)
    text = summarize_model(model, torch.zeros(2, 3, dtype=torch.long), optimizer=optimizer).table(depth=1)
    assert re.search(r"block .* block, block-no_decay +0\.05 \(base 0\.2\)$", text, re.MULTILINE)


def test_a_notebook_and_a_terminal_show_the_table() -> None:
    """At the depth of the summary: its repr is its text, its HTML has the same cells, indented, and the totals."""
    model = nn.Sequential(nn.Sequential(nn.Linear(8, 4), nn.ReLU()), nn.Linear(4, 2))
    model[1].requires_grad_(False)
    summary = summarize_model(model, input_size=(16, 8), depth=1)
    assert repr(summary) == str(summary) == summary.table(depth=1)
    page = ElementTree.fromstring(f"<div>{summary._repr_html_()}</div>")
    rows = [["".join(cell.itertext()) for cell in row] for row in page.iter("tr")]
    assert rows[1:] == [
        ["(model)", "Sequential", "16\u00d78", "16\u00d72", "", ""],
        ["0", "Sequential", "16\u00d78", "16\u00d74", "36", "yes"],
        ["1", "Linear", "16\u00d74", "16\u00d72", "10", "frozen"],
    ]
    styles = [row[0].attrib["style"] for row in page.iter("tr")]
    assert ["padding-left: 1.8em" in style for style in styles] == [False, False, True, True]
    assert ["opacity" in style for style in styles] == [False, False, False, True]
    assert all(total in "".join(page.itertext()) for total in summary.totals())
    shown = replace(summary, text="<b>another</b>")
    assert shown._repr_html_() == "<pre>&lt;b&gt;another&lt;/b&gt;</pre>"
