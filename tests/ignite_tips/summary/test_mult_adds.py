"""Mult-adds: those of torch's counter, and for kernels that it does not know, those of the formulas."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pack_sequence
from torch.utils.flop_counter import FlopCounterMode

from ignite_tips import summarize_model
from ignite_tips.summary.mult_adds import _recurrent_flop, count_mult_adds

X = torch.ones(2, 5, 8)


class Attention(nn.Module):
    def __init__(self, heads: int = 3, **options: Any) -> None:
        super().__init__()
        self.heads, self.options = heads, options

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key = x.expand(3, 2, 5, 8).transpose(0, 1), x.expand(self.heads, 2, 5, 8).transpose(0, 1)
        return scaled_dot_product_attention(query, key, key, **self.options)


# Each by hand: the rows, times the numbers that each row is multiplied by.
MODELS: dict[str, tuple[Callable[[], nn.Module], Any, int]] = {
    "linear": (lambda: nn.Linear(8, 4), torch.ones(2, 8), 2 * 8 * 4),
    "linear on sequences": (lambda: nn.Linear(8, 4), X, 10 * 8 * 4),
    "convolution": (lambda: nn.Conv2d(3, 8, 3), torch.ones(2, 3, 8, 8), 2 * 36 * 8 * 27),
    "depthwise": (lambda: nn.Conv1d(5, 5, 3, groups=5), X, 2 * 6 * 5 * 3),
    "transposed": (lambda: nn.ConvTranspose1d(5, 4, 3), X, 2 * 8 * 5 * 4 * 3),
    "rnn": (lambda: nn.RNN(8, 4, batch_first=True), X, 10 * 4 * (8 + 4)),
    "gru": (lambda: nn.GRU(8, 4, batch_first=True), X, 10 * 3 * 4 * (8 + 4)),
    "lstm": (lambda: nn.LSTM(8, 4, batch_first=True), X, 10 * 4 * 4 * (8 + 4)),
    "lstm of sequences first": (lambda: nn.LSTM(8, 4), X, 10 * 4 * 4 * (8 + 4)),
    "lstm of one sequence": (lambda: nn.LSTM(8, 4), X[0], 5 * 4 * 4 * (8 + 4)),
    "lstm, two layers": (lambda: nn.LSTM(8, 4, 2), X, 10 * 4 * 4 * (8 + 4 + 4 + 4)),
    "lstm, both ways": (lambda: nn.LSTM(8, 4, bidirectional=True), X, 2 * 10 * 4 * 4 * (8 + 4)),
    "lstm, projected": (lambda: nn.LSTM(8, 4, proj_size=2), X, 10 * (4 * 4 * (8 + 2) + 4 * 2)),
    "lstm, packed": (lambda: nn.LSTM(8, 4), pack_sequence([X[0], X[1, :2]]), 7 * 4 * 4 * (8 + 4)),
    "attention": (Attention, X, 2 * 3 * 2 * 5 * 5 * 8),
    "causal attention": (lambda: Attention(is_causal=True), X, 2 * 3 * 2 * 5 * 5 * 8),
    "grouped attention": (lambda: Attention(1, enable_gqa=True), X, 2 * 3 * 2 * 5 * 5 * 8),
    "MultiheadAttention": (
        lambda: nn.MultiheadAttention(8, 2, batch_first=True),
        (X, X, X),
        10 * 4 * 8 * 8 + 2 * 2 * 5 * 5 * 8,
    ),
    "TransformerEncoderLayer": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        X,
        10 * (4 * 8 * 8 + 2 * 8 * 16) + 2 * 2 * 5 * 5 * 8,
    ),
    "Llama-like": (lambda: nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 9)), torch.ones(2, 5).long(), 10 * 8 * 9),
}
KNOWN_TO_TORCH = ("linear", "linear on sequences", "convolution", "depthwise", "transposed", "rnn", "gru", "Llama-like")


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
@pytest.mark.parametrize("name", MODELS)
def test_mult_adds_are_those_of_the_formula(name: str) -> None:
    """One for each number of a matrix and each row that it is applied to, sequences included."""
    build, example, expected = MODELS[name]
    summary = summarize_model(build(), example)
    assert summary.mult_adds == expected


@pytest.mark.parametrize("name", KNOWN_TO_TORCH)
def test_mult_adds_are_those_of_torchs_own_counter(name: str) -> None:
    """Half of the floating-point operations that torch.utils.flop_counter finds."""
    build, example, _ = MODELS[name]
    model = build().eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(example)
    assert summarize_model(model, example).mult_adds == counter.get_total_flops() / 2


def test_the_kernels_of_a_gpu_are_counted_by_their_shapes() -> None:
    """CuDNN's and MIOpen's recurrent layers take all weights as one list."""
    layer = nn.LSTM(8, 4, 2, batch_first=True)
    shapes = [list(weight.shape) for weight in layer.parameters()]
    assert _recurrent_flop([2, 5, 8], shapes, 4, None, hidden_size=4) // 2 == 10 * 4 * 4 * (8 + 4 + 4 + 4)


def test_no_product_is_no_number_and_the_switch_is_as_before() -> None:
    """A model without products has none, and the fast path of attention is on or off as it was, after errors too."""
    assert summarize_model(nn.ReLU(), torch.ones(2)).mult_adds is None
    for before in (False, True):
        torch.backends.mha.set_fastpath_enabled(before)
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            count_mult_adds(lambda: nn.Linear(2, 2)(torch.ones(3, 3)))
        assert torch.backends.mha.get_fastpath_enabled() == before
