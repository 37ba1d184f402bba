"""All tips on a GPU: small MLP, ResNet-like, and a bf16 transformer of 100 million parameters; time and peak memory."""

import warnings
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.tables import Table
from benchmarks.timing import interleaved
from benchmarks.training import (
    BARE,
    BARE_IGNITE,
    HAND,
    LOOPS,
    OURS,
    add_loops,
    add_tips,
    loops_table,
    started,
    tips_table,
)
from benchmarks.training_loops import GROUPS, Loop, Task, by_hand, mlp, resnet, with_our_handlers

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PROPAGATE = f"{OURS}, propagate"
CHECKED = f"{HAND}, error_if_nonfinite"  # what "raise", our default, does, where the plain loop does "propagate"
# The bars: our time over the hand-written loop's, and the tips' cost over that of the tips by hand.
HAND_BAR, TIPS_BAR = 1.01, 0.6


class InBfloat16(nn.Module):
    """The model under autocast, so every framework runs the same operations."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        """Run the parts one after another."""
        with torch.autocast(x.device.type, torch.bfloat16):
            for part in self.children():
                x = part(x)
        return x.float()


def transformer(width: int, layers: int, words: int) -> nn.Module:
    layer = nn.TransformerEncoderLayer(width, width // 64, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
    stem = nn.Embedding(words, width)
    head = nn.Sequential(nn.Linear(width, 1000), nn.Flatten(0, 1))
    body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
    return InBfloat16(**dict(zip(GROUPS, (stem, body, head), strict=True)))


def tasks(quick: bool) -> list[Task]:
    on_device = partial(torch.randn, device=DEVICE)
    images, tokens, few = (2, 16, 1) if quick else (256, 512, 3)
    build = partial(transformer, 64, 1, 100) if quick else partial(transformer, 768, 12, 16_384)
    labels = torch.randint(10, (256,), device=DEVICE)
    x = torch.randint(100, (2 if quick else 32, tokens), device=DEVICE)
    return [
        Task("small MLP", mlp, (on_device(32, 32), labels[:32]), 4 if quick else 20, 24, DEVICE),
        Task("ResNet-like, 25 M parameters", resnet, (on_device(images, 3, 32, 32), labels[:images]), few, 11, DEVICE),
        Task("bf16 transformer, 100 M parameters", build, (x, x.flatten()), few, 9, DEVICE),
    ]


def measure(quick: bool) -> Iterator[list[Table]]:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    loops, tips = loops_table(), tips_table("the bare trainer")
    memory = Table(
        "memory",
        {"task": "", "AdamW": ""}
        | {f"{name}, MiB": ",.0f" for name in (BARE, BARE_IGNITE, HAND, OURS)}
        | {"ours more, MiB": ",.1f"},
        caption="Peak memory of an update, beyond what the run holds between updates.",
    )
    makers = LOOPS | {
        PROPAGATE: partial(with_our_handlers, on_nonfinite="propagate"),
        CHECKED: partial(by_hand, error_if_nonfinite=True),
    }
    for task in tasks(quick):
        for fused in (False, True):
            kind = "fused" if fused else "ordinary"
            with started(task, fused, makers) as runs:
                seconds = interleaved(runs, rounds=2 if quick else task.rounds, number=1)
                peaks = (
                    {name: _peak(runs[name]) for name in (BARE, BARE_IGNITE, HAND, OURS)} if DEVICE == "cuda" else {}
                )
            add_loops(loops, task, kind, seconds, {HAND: HAND_BAR, CHECKED: HAND_BAR})
            for ours in (OURS, PROPAGATE):
                add_tips(tips, task, kind, seconds, ours, BARE_IGNITE, TIPS_BAR)
            if peaks:
                memory.add(task.name, kind, *peaks.values(), peaks[OURS] - peaks[HAND])
            yield [loops, tips, memory]


def _peak(run: Loop) -> float:
    run()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return (torch.cuda.max_memory_allocated() - before) / 2**20
