"""The job of one process, in plain PyTorch: without Ignite, ignite_tips and a process group."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, get_total_norm
from torch.optim.lr_scheduler import StepLR

from tests.strategies import Network, loss_of, make_batches, make_sgd

EPOCHS, BATCHES = 3, 2
FROZEN_IN = 2  # the epoch in which the body does not train; the stem never does
LRS = {"stem": 0.1, "body": 0.05, "norm": 0.2, "head": 0.1}
DECAY = 0.8  # each update
Clip = Callable[[nn.Module], tuple[float, float]]


@dataclass(frozen=True)
class Outcome:
    """What a run ended with, and each update's norm, factor and learning rates."""

    weights: dict[str, Tensor]
    momenta: dict[str, Tensor]
    norms: list[float]
    factors: list[float]
    lrs: list[dict[str, float]]


def train_by_hand(clip: Clip) -> Outcome:
    """Train on the global batches."""
    model = Network()
    groups = [{"params": list(getattr(model, name).parameters()), "lr": lr} for name, lr in LRS.items()]
    optimizer = make_sgd(groups)
    schedule = StepLR(optimizer, 1, gamma=DECAY)
    model.stem.requires_grad_(False)
    clipped: list[tuple[float, float]] = []
    lrs: list[dict[str, float]] = []
    for epoch in range(1, EPOCHS + 1):
        model.body.requires_grad_(epoch != FROZEN_IN)
        for x, y in make_batches(BATCHES):
            model.train()
            model.stem.eval()
            optimizer.zero_grad()
            loss_of(model(x), y).backward()
            clipped.append(clip(model))
            lrs.append(dict(zip(LRS, (group["lr"] for group in optimizer.param_groups), strict=True)))
            optimizer.step()
            schedule.step()
    momenta = {
        name: optimizer.state[p]["momentum_buffer"] for name, p in model.named_parameters() if p in optimizer.state
    }
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    norms, factors = zip(*clipped, strict=True)
    return Outcome(weights, momenta, list(norms), list(factors), lrs)


def clip_norm() -> Clip:
    return lambda model: _clip_to(model, 0.4)


def clip_value() -> Clip:
    def clip(model: nn.Module) -> tuple[float, float]:
        largest = float(get_total_norm(_gradients(model), math.inf))
        clip_grad_value_(model.parameters(), 0.05)
        return largest, min(1.0, 0.05 / largest)

    return clip


def clip_units() -> Clip:
    """AGC; the head is left out."""

    def clip(model: nn.Module) -> tuple[float, float]:
        total, least = float(get_total_norm(_gradients(model))), 1.0
        for name, parameter in model.named_parameters():
            if parameter.grad is None or name.startswith("head"):
                continue
            rows = (parameter.shape[0], -1) if parameter.dim() > 1 else (1, -1)
            weights, gradients = parameter.detach().reshape(rows), parameter.grad.reshape(rows)
            for weight, gradient in zip(weights, gradients, strict=True):
                largest, norm = 0.02 * max(float(weight.norm()), 1e-3), float(gradient.norm())
                if norm > largest:
                    least = min(least, largest / norm)
                    gradient *= largest / norm
        return total, least

    return clip


def clip_to_percentile() -> Clip:
    history: list[float] = []

    def clip(model: nn.Module) -> tuple[float, float]:
        history.append(float(get_total_norm(_gradients(model))))
        return _clip_to(model, float(np.percentile(history, 30)))

    return clip


def clip_outliers() -> Clip:
    norms: list[float] = []
    statistics: list[float] = []

    def clip(model: nn.Module) -> tuple[float, float]:
        norm, threshold = float(get_total_norm(_gradients(model))), 0.6
        if not statistics:
            norms.append(norm)
            if len(norms) == 2:
                statistics.extend((float(np.mean(norms)), float(np.var(norms))))
        else:
            mean, variance = statistics
            z, counted = (norm - mean) / (math.sqrt(variance) + 1e-6), norm
            if z > 0.1:
                counted = mean + 0.1 * math.sqrt(variance) / (z / 0.1)
                threshold = min(threshold, counted)
            mean = 0.9 * mean + 0.1 * counted
            statistics[:] = mean, 0.9 * variance + 0.1 * (counted - mean) ** 2
        return _clip_to(model, threshold)

    return clip


CLIPS = {
    "norm": clip_norm,
    "value": clip_value,
    "AGC": clip_units,
    "AutoClip": clip_to_percentile,
    "ZClip": clip_outliers,
}


def _clip_to(model: nn.Module, threshold: float) -> tuple[float, float]:
    norm = float(clip_grad_norm_(model.parameters(), threshold))
    return norm, min(1.0, threshold / (norm + 1e-6))


def _gradients(model: nn.Module) -> list[Any]:
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
