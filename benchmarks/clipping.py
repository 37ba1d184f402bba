"""The cost of a GradientNormClipper per update, compared with clip_grad_norm_ by hand, Lightning and Accelerate.

Each is compared with the same loop of its own framework without clipping. If clipping is active, all of them restore
the gradients first, at the same cost.
"""

import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW

from benchmarks.loops import Loop, in_accelerate, in_ignite, in_lightning, parameters_of
from benchmarks.peers import add_peers, peer_table
from benchmarks.tables import Bar, Table
from benchmarks.timing import added, interleaved, ratio
from ignite_tips import GradientNormClipper

# name: shapes of the tensors, updates in a run, rounds, bars of the ratio (inactive, active, active fused)
CASES: dict[str, tuple[list[tuple[int, ...]], int, int, tuple[float, float, float]]] = {
    "4 small tensors": ([(128,), (16,), (64,), (4,)], 200, 30, (0.4, 0.7, 0.7)),
    "25 M parameters in 161 tensors": ([(155_000,)] * 161, 3, 21, (0.5, 1.05, 0.45)),
    "2 M parameters in 1,000 vectors": ([(2_000,)] * 1000, 8, 21, (0.5, 1.05, 1.05)),
    "2 M parameters in 1,000 matrices": ([(40, 50)] * 1000, 8, 21, (0.5, 1.05, 1.05)),
}
PEERS = ("by hand", "Lightning", "Accelerate")


def measure(quick: bool) -> list[Table]:
    columns = {"tensors": "", "clipping": "", "optimizer": "", "step, µs": ",.0f"}
    columns |= {f"{name} adds, µs": ",.1f" for name in (*PEERS, "ours")} | {"ratio": ".2f", "bar": ""}
    table = Table(
        "added",
        columns,
        note="Medians over the rounds. The ratio, with its quartiles, is ours over clip_grad_norm_ by hand, both in "
        "Ignite trainers whose step without clipping is the fourth column. Lightning and Accelerate also call "
        "clip_grad_norm_: their own cost shows with few tensors. AdamW, foreach unless fused.",
    )
    peers = peer_table()
    for name, (shapes, steps, rounds, bars) in CASES.items():
        for active in (False, True):
            for fused in (False, True):
                kind = ("clipped" if active else "within the threshold", "fused" if fused else "foreach")
                loops = clipping_loops(shapes, steps, active=active, fused=fused)
                seconds = interleaved(loops, rounds=3 if quick else rounds, number=1)
                pairs = {one: (one, "without") for one in (PEERS[0], "ours")}
                pairs |= {one: (one, f"{one}, without") for one in PEERS[1:] if one in loops}
                cost = added(seconds, pairs, steps)
                medians = [median(cost[one]) if one in cost else None for one in (*PEERS, "ours")]
                beside = ratio(cost["ours"], cost[PEERS[0]])
                bar = Bar(bars[active + (active and fused)], beside.middle)
                table.add(name, *kind, median(seconds["without"]) / steps * 1e6, *medians, beside, bar)
                add_peers(peers, f"{name}, {', '.join(kind)}", cost)
    return [table, peers]


def clipping_loops(
    shapes: list[tuple[int, ...]],
    steps: int,
    *,
    active: bool,
    fused: bool,
    device: str = "cpu",
    modes: Sequence[str] = ("raise",),
) -> dict[str, Loop]:
    """Return runs without clipping, by hand, and with ours in each mode; for few tensors also the peers' two each."""
    max_norm = math.sqrt(sum(map(math.prod, shapes))) * (0.5 if active else 100)

    def make(framework: Callable[..., Loop], **options: Any) -> Loop:
        parameters = parameters_of(shapes, device)
        optimizer = AdamW(parameters, lr=1e-6, fused=fused, foreach=not fused)
        own = [parameter.grad for parameter in parameters if parameter.grad is not None]
        gradients = [gradient.clone() for gradient in own]
        before = [lambda: torch._foreach_copy_(own, gradients)] if active else []
        if options.pop("by_hand", False):
            before.append(lambda: clip_grad_norm_(parameters, max_norm))
        if mode := options.pop("on_nonfinite", None):
            options["attach"] = GradientNormClipper(optimizer, max_norm, on_nonfinite=mode).attach
        return framework(optimizer, steps, before=before, **options)

    loops = {
        "without": make(in_ignite),
        "by hand": make(in_ignite, by_hand=True),
    }
    for mode in modes:
        loops["ours" if mode == "raise" else f"ours, {mode}"] = make(in_ignite, on_nonfinite=mode)
    if len(shapes) > 10:
        return loops
    return loops | {
        "Lightning, without": make(in_lightning),
        "Lightning": make(in_lightning, gradient_clip_val=max_norm),
        "Accelerate, without": make(in_accelerate),
        "Accelerate": make(in_accelerate, max_norm=max_norm),
    }
