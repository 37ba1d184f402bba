"""What the clippers' tests share: a small training run, and the same run by hand."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from ignite.engine import Engine
from torch import Tensor, nn

from ignite_tips import (
    AdaptiveGradientClipper,
    AutoClipper,
    GradientNormClipper,
    GradientValueClipper,
    ZClipper,
)
from ignite_tips.clipping.gradient_clipper import GradientClipper
from tests.settings import seeded

Batch = tuple[Tensor, Tensor]
SIZE = 6 * 8 + 8 + 8 + 1  # parameters of the model


def make_model() -> nn.Module:
    torch.manual_seed(seeded(1))
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))


def make_batches(count: int = 8, dtype: torch.dtype = torch.float32) -> list[Batch]:
    generator = torch.Generator().manual_seed(seeded(2))
    drawn = [(torch.randn(4, 6, generator=generator), torch.randn(4, 1, generator=generator)) for _ in range(count)]
    return [(x.to(dtype), y.to(dtype)) for x, y in drawn]


def poisoned(value: float, at: int = 3, dtype: torch.dtype = torch.float32) -> list[Batch]:
    batches = make_batches(6, dtype)
    batches[at - 1][0][0, 0] = value
    return batches


def sgd(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, **options)


def adamw(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.01, **options)


KINDS: dict[str, dict[str, Any]] = {
    "ordinary": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}


CLIPPERS: dict[str, Callable[..., GradientClipper]] = {
    "norm": lambda optimizer, **options: GradientNormClipper(optimizer, 0.3, **options),
    "value": lambda optimizer, **options: GradientValueClipper(optimizer, 0.05, **options),
    "agc": lambda optimizer, **options: AdaptiveGradientClipper(optimizer, **options),
    "auto": lambda optimizer, **options: AutoClipper(optimizer, **options),
    "z": lambda optimizer, **options: ZClipper(optimizer, warmup_steps=2, **options),
}


class Training:
    """A model, its optimizer and what a step of training is; run by a trainer or by hand."""

    def __init__(
        self,
        make_optimizer: Callable[..., torch.optim.Optimizer] = sgd,
        *,
        precision: str = "fp32",
        accumulate: int = 1,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        **options: Any,
    ) -> None:
        self.device = device
        self.model = make_model().to(device, dtype)
        self.optimizer = make_optimizer(self.model, **options)
        self.precision = precision
        self.accumulate = accumulate
        self.scaler = torch.amp.GradScaler(device, init_scale=2.0**7, enabled=precision == "fp16")

    def backward(self, batch: Batch) -> Tensor:
        dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]
        x, y = (one.to(self.device, non_blocking=True) for one in batch)  # as a loop that never waits
        with torch.autocast(self.device, dtype=dtype, enabled=dtype is not None):
            loss = nn.functional.mse_loss(self.model(x).to(y.dtype), y) / self.accumulate
        self.scaler.scale(loss).backward()
        return loss

    def trainer(self, before_step: Callable[["Training"], None] | None = None) -> Engine:
        def update(engine: Engine, batch: Batch) -> Tensor:
            loss = self.backward(batch)
            if engine.state.iteration % self.accumulate == 0:
                if before_step is not None:
                    before_step(self)
                self.scaler.step(self.optimizer)
                self.scaler.update()
                self.optimizer.zero_grad()
            return loss.detach()

        return Engine(update)

    def by_hand(self, clip: Callable[[nn.Module], Any], batches: Iterable[Batch]) -> list[Any]:
        results = []
        for index, batch in enumerate(batches, 1):
            self.backward(batch)
            if index % self.accumulate == 0:
                self.scaler.unscale_(self.optimizer)
                results.append(clip(self.model))
                self.scaler.step(self.optimizer)
                self.scaler.update()
                self.optimizer.zero_grad()
        return results

    def tensors(self) -> list[Tensor]:
        """Return parameters and optimizer state."""
        state = self.optimizer.state_dict()["state"]
        kept = [value for slot in state.values() for value in slot.values() if isinstance(value, Tensor)]
        return [parameter.detach() for parameter in self.model.parameters()] + kept

    def gradients(self) -> list[Tensor]:
        """Return copies of all gradients."""
        return [parameter.grad.detach().clone() for parameter in self.model.parameters()]


def same(one: Training, other: Training, *, rtol: float = 0.0) -> bool:
    """Return whether parameters and optimizer state are: bit for bit, or relative to each tensor's largest value."""
    pairs = list(zip(one.tensors(), other.tensors(), strict=True))
    if rtol == 0:
        return all(torch.equal(a, b) for a, b in pairs)
    return all(torch.allclose(a, b, rtol=rtol, atol=rtol * float(b.abs().max())) for a, b in pairs)
