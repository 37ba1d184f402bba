"""What is recorded of running modules, and how shapes are shown."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from ignite_tips.summary.module_calls import ModuleCalls, move_tensors, show_shapes, tensors_in


class _Pair(NamedTuple):
    left: torch.Tensor
    right: Any


@dataclass
class _Output:
    logits: torch.Tensor
    hidden: tuple[torch.Tensor, ...]


PACKED = pack_padded_sequence(torch.ones(2, 3, 4), torch.tensor([3, 2]), batch_first=True)
VALUES = {
    "[2, 3]": torch.ones(2, 3),
    "[]": torch.ones(()),
    "([2], {mask: [3]}, None)": (torch.ones(2), {"mask": torch.ones(3)}, None),
    "([1], 5)": _Pair(torch.ones(1), 5),
    "{logits: [4], hidden: ([2])}": _Output(torch.ones(4), (torch.ones(2),)),
    "[5, 4]": PACKED,
    "object": object(),
    "True": True,
}


@pytest.mark.parametrize("text", VALUES)
def test_shapes_have_the_structure_of_the_value(text: str) -> None:
    """Tuples, dicts, dataclasses, packed sequences, plain numbers, and the class of anything else."""
    assert show_shapes(VALUES[text]) == text


@pytest.mark.parametrize("text", VALUES)
def test_only_tensors_are_moved(text: str) -> None:
    """The structure of the value stays."""
    assert show_shapes(move_tensors(VALUES[text], torch.device("cpu"))) == text


def test_moving_reaches_every_tensor_in_containers() -> None:
    """Checked on the meta device."""
    value = {"a": [torch.ones(1), (torch.ones(2), 3)], "b": _Pair(torch.ones(3), None)}
    moved = move_tensors(value, torch.device("meta"))
    assert [tensor.device.type for tensor in tensors_in(moved)] == ["meta"] * 3
    assert isinstance(moved["b"], _Pair)


def test_all_tensors_of_a_value_are_found() -> None:
    """In the order of the value."""
    value = (torch.ones(1), {"x": [torch.ones(2)]}, _Output(torch.ones(3), (torch.ones(4),)), PACKED, 7)
    assert [len(tensor) for tensor in tensors_in(value)] == [1, 2, 3, 4, 5]


def test_the_first_call_of_each_module_is_kept_and_hooks_are_removed() -> None:
    """With its inputs, outputs and their bytes; no module is left as running."""
    layer = nn.Linear(2, 3)
    calls = ModuleCalls()
    with calls.recorded(layer):
        layer(torch.ones(4, 2))
        layer(torch.ones(5, 2))
    assert (calls.first[layer].inputs, calls.first[layer].outputs) == ("[4, 2]", "[4, 3]")
    assert calls.first[layer].output_bytes == 48
    assert calls.running == []
    assert not layer._forward_hooks
    assert not layer._forward_pre_hooks


def test_an_error_leaves_the_path_to_where_it_was_raised() -> None:
    """The path begins with the outermost module."""
    model = nn.Sequential(nn.Identity(), nn.Sequential(nn.Linear(2, 3)))
    calls = ModuleCalls()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), calls.recorded(model):
        model(torch.ones(1, 5))
    assert [type(module).__name__ for module, _ in calls.running] == ["Sequential", "Sequential", "Linear"]
    assert calls.running[-1][1] == "[1, 5]"
