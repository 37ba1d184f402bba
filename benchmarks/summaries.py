"""The time to summarize a model: ours, torchinfo, torchsummary and Lightning's ModelSummary.

Ours counts operations as the model runs, and then restores everything that the run changed: BatchNorm's statistics,
modes, gradients, the state of the random number generators.
"""

import contextlib
import io
from collections.abc import Callable
from statistics import median

import torch
import torchinfo
import torchsummary
from torch import nn

from benchmarks.peers import add_peers, peer_table
from benchmarks.tables import Table
from benchmarks.timing import interleaved
from benchmarks.training_loops import mlp, resnet
from ignite_tips import summarize_model

ROUNDS = 15
# name: the network, the size of its input
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP of 3 layers": (mlp, (1, 32)),
    "ResNet-like, 25 M parameters": (resnet, (1, 3, 16, 16)),
}
PEERS = ("torchinfo", "torchsummary", "Lightning's ModelSummary")


def measure(quick: bool) -> list[Table]:
    torch.set_num_threads(1)
    table = Table(
        "once",
        {"model": "", "forward": ".2f"} | dict.fromkeys((*PEERS, "ours"), ".2f"),
        note="Milliseconds, once: medians. torchinfo, torchsummary and Lightning leave BatchNorm's statistics or the "
        "state of the random number generators changed.",
    )
    peers = peer_table()
    for name, (build, size) in CASES.items():
        seconds = interleaved(_summaries(build, size), rounds=3 if quick else ROUNDS, number=1)
        table.add(name, *(median(seconds[one]) * 1e3 for one in ("forward", *PEERS, "ours")))
        add_peers(peers, name, {one: seconds[one] for one in (*PEERS, "ours")})
    return [table, peers]


def _summaries(build: Callable[[], nn.Module], size: tuple[int, ...]) -> dict[str, Callable[[], object]]:
    import lightning.pytorch as pl
    from lightning.pytorch.utilities.model_summary import ModelSummary

    model = build()
    example = torch.zeros(size)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.example_input_array = example

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.model(x)
            return output

    def run() -> object:
        with torch.no_grad():
            return model.eval()(example)

    def in_torchsummary() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            torchsummary.summary(model, size[1:], device="cpu")

    module = Module()
    return {
        "forward": run,
        "torchinfo": lambda: str(torchinfo.summary(model, size, verbose=0, cache_forward_pass=False)),
        "torchsummary": in_torchsummary,
        "Lightning's ModelSummary": lambda: str(ModelSummary(module, max_depth=-1)),
        "ours": lambda: summarize_model(model, input_size=size).table(),
    }
