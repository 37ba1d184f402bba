"""Every clipper in every mode against a loop written by hand."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from ignite_tips import (
    AdaptiveGradientClipper,
    AutoClipper,
    GradientNormClipper,
    GradientValueClipper,
    ZClipper,
)
from tests.ignite_tips.clipping.support import KINDS, Training, adamw, make_batches, same, sgd


def norm_by_hand() -> Callable[[nn.Module], Any]:
    return lambda model: clip_grad_norm_(model.parameters(), 0.3).item()


def value_by_hand() -> Callable[[nn.Module], Any]:
    return lambda model: clip_grad_value_(model.parameters(), 0.05)


def agc_by_hand() -> Callable[[nn.Module], Any]:
    def clip(model: nn.Module) -> None:
        for parameter in model[0].parameters():
            weights, gradient = parameter.detach(), parameter.grad
            dims = (1,) if weights.dim() == 2 else None
            keep = dims is not None
            m = 0.02 * torch.linalg.vector_norm(weights, 2, dims, keepdim=keep).clamp(min=1e-3)
            norm = torch.linalg.vector_norm(gradient, 2, dims, keepdim=keep)
            clipped = gradient * (m / norm.clamp(min=1e-6))
            gradient.copy_(torch.where(norm > m, clipped, gradient))

    return clip


def auto_by_hand() -> Callable[[nn.Module], Any]:
    history = []

    def clip(model: nn.Module) -> None:
        gradients = [p.grad for p in model.parameters()]
        history.append(torch.nn.utils.get_total_norm(gradients).item())
        clip_grad_norm_(model.parameters(), float(np.percentile(history[-5:], 30)))

    return clip


def z_by_hand() -> Callable[[nn.Module], Any]:
    norms: list[float] = []
    statistics: list[float] = []

    def clip(model: nn.Module) -> None:
        norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]).item()
        bound = 0.6
        if not statistics:
            norms.append(norm)
            if len(norms) == 2:
                mean = (norms[0] + norms[1]) / 2
                statistics.extend((mean, ((norms[0] - mean) ** 2 + (norms[1] - mean) ** 2) / 2))
        else:
            mean, variance = statistics
            sigma = math.sqrt(variance)
            z = (norm - mean) / (sigma + 1e-6)
            seen = norm
            if z > 0.1:
                seen = mean + 0.1 * sigma / (z / 0.1)
                bound = min(bound, seen)
            mean = 0.9 * mean + (1 - 0.9) * seen
            statistics[:] = mean, 0.9 * variance + (1 - 0.9) * (seen - mean) ** 2
        clip_grad_norm_(model.parameters(), bound)

    return clip


CLIPPERS: dict[str, tuple[Callable[[Training], Any], Callable[[], Callable[[nn.Module], Any]]]] = {
    "norm": (lambda t: GradientNormClipper(t.optimizer, 0.3), norm_by_hand),
    "value": (lambda t: GradientValueClipper(t.optimizer, 0.05), value_by_hand),
    "agc": (
        lambda t: AdaptiveGradientClipper(t.optimizer, 0.02, exclude="2.*", model=t.model),
        agc_by_hand,
    ),
    "auto": (lambda t: AutoClipper(t.optimizer, 30, history_size=5), auto_by_hand),
    "z": (
        lambda t: ZClipper(t.optimizer, alpha=0.9, z_threshold=0.1, max_norm=0.6, warmup_steps=2),
        z_by_hand,
    ),
}


@pytest.mark.parametrize("make_optimizer", [sgd, adamw])
@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("clipper", CLIPPERS)
def test_equals_the_loop_by_hand(
    clipper: str, precision: str, kind: str, accumulate: int, make_optimizer: Callable[..., torch.optim.Optimizer]
) -> None:
    """Parameters and optimizer state equal those of a loop by hand, bit for bit: so small a model is never folded."""
    make_clipper, clip_by_hand = CLIPPERS[clipper]
    options = {"precision": precision, "accumulate": accumulate, **KINDS[kind]}
    batches = make_batches(4 * accumulate)
    expected = Training(make_optimizer, **options)
    expected.by_hand(clip_by_hand(), batches)
    unclipped = Training(make_optimizer, **options)
    unclipped.trainer().run(batches)
    training = Training(make_optimizer, **options)
    trainer = training.trainer()
    make_clipper(training).attach(trainer)
    trainer.run(batches)
    assert same(training, expected)
    assert not same(training, unclipped, rtol=1e-4)
