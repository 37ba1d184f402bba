"""What frozen layers save: the time of a step, in a single process and under DDP, and the memory of gradients.

Under DDP two gloo processes train 7 layers, 5 of them frozen: with ``freeze_parameters`` and ``rewrap_model``, or with
``requires_grad = False`` alone, which needs ``find_unused_parameters=True``. Freezing itself is compared with
Lightning's BaseFinetuning.
"""

import multiprocessing
import tempfile
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.peers import add_peers, peer_table
from benchmarks.tables import Table
from benchmarks.timing import Times, interleaved, ratio
from ignite_tips import freeze_parameters, rewrap_model, unfreeze_parameters

LAYERS, WIDTH, BATCH = 7, 1024, 32
ROUNDS, NUMBER = 21, 3


def rounds_of(quick: bool) -> int:
    return 3 if quick else ROUNDS


def build_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()) for _ in range(LAYERS)))


def make_step(model: nn.Module) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    inputs = torch.randn(BATCH, WIDTH)

    def step() -> None:
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()

    return step


def first_layers(count: int) -> list[str]:
    return [f"{index}.*" for index in range(count)]


def gradient_bytes(model: nn.Module) -> int:
    return sum(p.grad.numel() * p.grad.element_size() for p in model.parameters() if p.grad is not None)


def frozen_fraction(quick: bool) -> Table:
    steps: dict[str, Callable[[], None]] = {}
    models = {}
    for count in range(LAYERS):
        model = models[count] = build_network()
        if count:
            freeze_parameters(model, first_layers(count))
        steps[str(count)] = make_step(model)
    seconds = interleaved(steps, rounds=rounds_of(quick), number=NUMBER)
    table = Table(
        "frozen fraction",
        {"layers frozen": "", "step, ms": ".2f", "÷ unfrozen": ".2f", "gradients, MB": ".2f"},
        caption=f"One process, {LAYERS} layers of {WIDTH} x {WIDTH}, batch {BATCH}, SGD with momentum.",
    )
    for count, model in models.items():
        values = seconds[str(count)]
        table.add(count, median(values) * 1e3, ratio(values, seconds["0"]), gradient_bytes(model) / 1e6)
    return table


def _time_ddp(rank: int, store: str, quick: bool, results: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    frozen = LAYERS - 2
    ours = DistributedDataParallel(build_network())
    freeze_parameters(ours, first_layers(frozen))
    rewrap_model(ours)
    theirs = DistributedDataParallel(build_network(), find_unused_parameters=True)
    for layer in theirs.module[:frozen]:
        layer.requires_grad_(False)
    steps = {
        "find_unused_parameters=True": make_step(theirs),
        "ours": make_step(ours),
        "nothing frozen": make_step(DistributedDataParallel(build_network())),
    }
    seconds = interleaved(steps, rounds=rounds_of(quick), number=NUMBER)
    rewrap = {"rewrap": lambda: rewrap_model(ours)}
    seconds["(`rewrap_model` itself, once a freeze)"] = interleaved(rewrap, rounds=rounds_of(quick), number=1)["rewrap"]
    if rank == 0:
        results.put(seconds)
    dist.barrier()
    dist.destroy_process_group()


def two_processes(quick: bool) -> Times:
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        arguments = (f"{folder}/store", quick, results)
        processes = [context.Process(target=_time_ddp, args=(rank, *arguments)) for rank in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit("a process of the DDP benchmark failed")
    seconds: Times = results.get()
    return seconds


def under_ddp(seconds: Times) -> Table:
    table = Table(
        "ddp",
        {"": "", "step, ms": ".2f", "÷ find_unused_parameters=True": ".2f"},
        caption=f"Two processes over gloo, DDP, {LAYERS - 2} of the {LAYERS} layers frozen after wrapping.",
    )
    for name, values in seconds.items():
        table.add(name, median(values) * 1e3, ratio(values, seconds["find_unused_parameters=True"]))
    return table


def act_times(layers: int, quick: bool) -> Times:
    """Time freezing and unfreezing ``layers`` layers, including BatchNorm."""
    from lightning.pytorch.callbacks import BaseFinetuning

    def network() -> nn.Sequential:
        return nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)) for _ in range(layers)))

    ours, hand, lightning = network(), network(), network()

    def by_hand() -> None:
        for trains in (False, True):
            for parameter in hand.parameters():
                parameter.requires_grad = trains
            hand.train(trains)

    def in_lightning() -> None:
        BaseFinetuning.freeze(lightning, train_bn=False)
        BaseFinetuning.make_trainable(lightning)

    runs = {
        "by hand": by_hand,
        "Lightning's BaseFinetuning": in_lightning,
        "ours": lambda: unfreeze_parameters(freeze_parameters(ours, "*")),
    }
    return interleaved(runs, rounds=rounds_of(quick), number=5)


def measure(quick: bool) -> list[Table]:
    torch.set_num_threads(1)
    fraction = frozen_fraction(quick)
    ddp = two_processes(quick)
    act = Table(
        "act",
        {"layers": ""} | dict.fromkeys(("by hand", "Lightning's BaseFinetuning", "ours"), ".2f"),
        caption="Freezing and unfreezing, once, ms: Linear and BatchNorm layers. By hand it is requires_grad and "
        "eval(), which the next model.train() undoes; Lightning sets track_running_stats, which makes BatchNorm "
        "normalize by each batch.",
    )
    peers = peer_table()
    add_peers(
        peers,
        "a step under DDP, 5 of 7 layers frozen",
        {"ours": ddp["ours"], "by hand": ddp["find_unused_parameters=True"]},
    )
    for layers in (10, 1000):
        times = act_times(layers, quick)
        act.add(2 * layers, *(median(values) * 1e3 for values in times.values()))
        add_peers(peers, f"freezing and unfreezing {2 * layers:,} layers, once", times)
    return [fraction, under_ddp(ddp), act, peers]
