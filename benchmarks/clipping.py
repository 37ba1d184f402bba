"""What a GradientNormClipper adds to a training step, beside what clip_grad_norm_ called by hand adds.

All rows are Ignite trainers whose update is ``optimizer.step()`` on given gradients: one does no more, one calls
``torch.nn.utils.clip_grad_norm_`` first, one has the clipper attached. Where clipping is active, all three put the
gradients back first, which costs all the same.
"""

import math
from statistics import median, quantiles
from typing import Any

import torch
from ignite.engine import Engine
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW

from benchmarks.timing import interleaved
from ignite_tips import GradientNormClipper

# name: sizes of the tensors, updates in a run, rounds, the most that the ratio may be (inactive, active, active fused)
CASES: dict[str, tuple[list[int], int, int, tuple[float, float, float]]] = {
    "4 small tensors": ([128, 16, 64, 4], 200, 40, (0.4, 0.7, 0.7)),
    "161 of 155,000": ([155_000] * 161, 3, 11, (0.5, 1.05, 0.45)),
    "1,000 of 2,000": ([2_000] * 1000, 10, 21, (0.5, 1.05, 1.05)),
}


def main() -> None:
    print("| tensors | clipping | optimizer | step, µs | clip_grad_norm_ adds, µs | ours adds, µs | ratio | bar |")
    print("|---|---|---|---|---|---|---|---|")
    for name, (sizes, steps, rounds, bars) in CASES.items():
        for active in (False, True):
            for fused in (False, True):
                _print_row(
                    name, sizes, steps, rounds, active=active, fused=fused, bar=bars[active + (active and fused)]
                )
    print("\nMedians over the rounds, the ratio with its quartiles; AdamW, foreach unless fused.")


def _print_row(name: str, sizes: list[int], steps: int, rounds: int, *, active: bool, fused: bool, bar: float) -> None:
    runs = {kind: _run(kind, sizes, steps, active=active, fused=fused) for kind in ("bare", "torch", "ours")}
    times = interleaved(runs, rounds=rounds, number=1)
    micro = {kind: [seconds / steps * 1e6 for seconds in times[kind]] for kind in times}
    torchs = [one - bare for one, bare in zip(micro["torch"], micro["bare"], strict=True)]
    ours = [one - bare for one, bare in zip(micro["ours"], micro["bare"], strict=True)]
    low, _, high = quantiles([our / their for our, their in zip(ours, torchs, strict=True) if their > 0], n=4)
    print(
        f"| {name} | {'active' if active else 'inactive'} | {'fused' if fused else 'foreach'} "
        f"| {median(micro['bare']):,.0f} | {median(torchs):,.1f} | {median(ours):,.1f} "
        f"| {median(ours) / median(torchs):.2f} ({low:.2f} to {high:.2f}) | {bar} |",
        flush=True,
    )


def _run(kind: str, sizes: list[int], steps: int, *, active: bool, fused: bool) -> Any:
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(size) * 0.01) for size in sizes]
    gradients = [torch.randn(size) for size in sizes]
    max_norm = math.sqrt(sum(sizes)) * (0.5 if active else 100)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    own: list[Tensor] = [parameter.grad for parameter in parameters if parameter.grad is not None]
    optimizer = AdamW(parameters, lr=1e-6, fused=fused, foreach=not fused)

    def update(trainer: Engine, batch: Any) -> None:
        if active:
            torch._foreach_copy_(own, gradients)
        if kind == "torch":
            clip_grad_norm_(parameters, max_norm)
        optimizer.step()

    trainer = Engine(update)
    if kind == "ours":
        GradientNormClipper(optimizer, max_norm).attach(trainer)
    return lambda: trainer.run(range(steps))


if __name__ == "__main__":
    main()
