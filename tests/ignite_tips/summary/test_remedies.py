"""Remedies that errors of summaries name: each is followed and works."""

from typing import Any

import pytest
import torch
from torch import nn

from ignite_tips import ModelSummarizer, summarize_model
from tests.ignite_tips.architectures import Odd
from tests.remedies import says


@pytest.mark.parametrize(("backend", "model"), [("torchinfo", Odd()), ("torchsummary", nn.Linear(4, 2).double())])
def test_a_library_that_fails(backend: Any, model: nn.Module) -> None:
    """Without it the model has a table."""
    with says("leave backend out to see it"):
        summarize_model(model, input_size=(2, 4), backend=backend)
    assert summarize_model(model, input_size=(2, 4)).total_parameters == 10


def test_an_input_that_torchsummary_does_not_take() -> None:
    """Integers, for an embedding."""
    model, example = nn.Embedding(5, 2), torch.zeros(3, dtype=torch.long)
    with says("leave backend out to see this model"):
        summarize_model(model, example, backend="torchsummary")
    assert summarize_model(model, example).layers[0].output_shape == "[3, 2]"


def test_no_input() -> None:
    """Its size or an example gives the shapes."""
    model = nn.Linear(4, 2)
    with says("input_size must be given, or an example of the input"):
        summarize_model(model)
    for summary in (summarize_model(model, input_size=(3, 4)), summarize_model(model, torch.ones(3, 4))):
        assert summary.layers[0].output_shape == "[3, 2]"


def test_two_inputs() -> None:
    """With one of them left out the other is taken."""
    model = nn.Linear(4, 2)
    with says("input_size must be None if an example is given"):
        summarize_model(model, torch.ones(3, 4), input_size=(5, 4))
    assert summarize_model(model, torch.ones(3, 4), input_size=None).layers[0].output_shape == "[3, 2]"
    with says("input_of_batch must be left out if another input is given"):
        ModelSummarizer(model, input_size=(5, 4), input_of_batch=lambda batch: batch)
    ModelSummarizer(model, input_size=(5, 4))
