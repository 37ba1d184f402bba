"""The cost of clipping per update on a GPU, in each mode: ours, clip_grad_norm_ by hand, Lightning and Accelerate."""

import warnings
from collections.abc import Iterator
from statistics import median

import torch

from benchmarks.clipping import CASES, PEERS, clipping_loops
from benchmarks.tables import Table
from benchmarks.timing import added, interleaved, ratio

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MODES = ("raise", "propagate", "skip")
OURS = ("ours", "ours, propagate", "ours, skip")
ROUNDS = 11


def measure(quick: bool) -> Iterator[list[Table]]:
    warnings.simplefilter("ignore")
    columns = {"tensors": "", "optimizer": "", "step, µs": ",.0f"}
    columns |= {f"{name} adds, µs": ",.1f" for name in (*PEERS, *OURS)} | {f"{name} ÷ by hand": ".2f" for name in OURS}
    table = Table(
        "added",
        columns,
        note="Medians over the rounds. A round ends when the device is done, so a wait within it costs only what the "
        "host could have prepared meanwhile. The ratios, with their quartiles, are to clip_grad_norm_ by hand. On a "
        "GPU clipping does the same work whether or not the norm is within the threshold.",
    )
    for name, (shapes, *_) in list(CASES.items())[: 1 if quick else None]:
        for fused in (False, True):
            steps = 2 if quick else _steps(len(shapes))
            loops = clipping_loops(shapes, steps, active=True, fused=fused, device=DEVICE, modes=MODES)
            runs = {one: (lambda run=run: (run(), _wait())) for one, run in loops.items()}
            seconds = interleaved(runs, rounds=2 if quick else ROUNDS, number=1)
            pairs = {one: (one, "without") for one in (PEERS[0], *OURS)}
            pairs |= {one: (one, f"{one}, without") for one in PEERS[1:] if one in loops}
            cost = added(seconds, pairs, steps)
            medians = [median(cost[one]) if one in cost else None for one in (*PEERS, *OURS)]
            ratios = [ratio(cost[one], cost[PEERS[0]]) for one in OURS]
            table.add(
                name, "fused" if fused else "foreach", median(seconds["without"]) / steps * 1e6, *medians, *ratios
            )
            yield [table]


def _steps(tensors: int) -> int:
    """Return how many updates to time at once: fewer if they are long."""
    return max(6, min(30, 2000 // tensors))


def _wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
