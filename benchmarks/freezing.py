"""What a frozen layer saves: the time of a step, alone and under DDP, and the memory of gradients.

Under DDP two gloo processes train 7 layers of which 5 are frozen: by ``freeze_parameters`` and ``rewrap_model``, and
by ``requires_grad = False`` alone, which needs ``find_unused_parameters=True``.
"""

import multiprocessing
import tempfile
from collections.abc import Callable
from statistics import median, quantiles
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.timing import interleaved
from ignite_tips import freeze_parameters, rewrap_model

LAYERS, WIDTH, BATCH = 7, 1024, 32
ROUNDS, NUMBER = 21, 3


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


def describe(seconds: list[float], base: list[float]) -> str:
    ratios = [mine / theirs for mine, theirs in zip(seconds, base, strict=True)]
    low, _, high = quantiles(ratios, n=4)
    return f"{median(seconds) * 1e3:.2f} ms | {median(ratios):.2f} ({low:.2f} to {high:.2f})"


def one_process() -> None:
    steps: dict[str, Callable[[], None]] = {}
    models = {}
    for count in range(LAYERS):
        model = models[str(count)] = build_network()
        if count:
            freeze_parameters(model, first_layers(count))
        steps[str(count)] = make_step(model)
    seconds = interleaved(steps, rounds=ROUNDS, number=NUMBER)
    print(f"One process, {LAYERS} layers of {WIDTH} x {WIDTH}, batch {BATCH}, SGD with momentum.\n")
    print("| layers frozen | step | ÷ unfrozen: median (quartiles) | gradients |")
    print("|---|---|---|---|")
    for count, values in seconds.items():
        megabytes = gradient_bytes(models[count]) / 1e6
        print(f"| {count} of {LAYERS} | {describe(values, seconds['0'])} | {megabytes:.2f} MB |")


def _time_ddp(rank: int, store: str, results: Any) -> None:
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
    seconds = interleaved(steps, rounds=ROUNDS, number=NUMBER)
    seconds["(`rewrap_model` itself, once a freeze)"] = interleaved(
        {"rewrap": lambda: rewrap_model(ours)}, rounds=ROUNDS, number=1
    )["rewrap"]
    if rank == 0:
        results.put(seconds)
    dist.barrier()
    dist.destroy_process_group()


def two_processes() -> None:
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        processes = [context.Process(target=_time_ddp, args=(rank, f"{folder}/store", results)) for rank in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit("a process of the DDP benchmark failed")
    seconds = results.get()
    print(f"\nTwo processes over gloo, DDP, {LAYERS - 2} of the {LAYERS} layers frozen after wrapping.\n")
    print("| | step | ÷ find_unused_parameters=True: median (quartiles) |")
    print("|---|---|---|")
    for name, values in seconds.items():
        print(f"| {name} | {describe(values, seconds['find_unused_parameters=True'])} |")


def main() -> None:
    torch.set_num_threads(1)
    one_process()
    two_processes()


if __name__ == "__main__":
    main()
