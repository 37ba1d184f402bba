"""Whole training steps on four processes: clipping and freezing with our handlers, by hand, and in Lightning Fabric.

All loops share one process group and take turns, an update each. At the end they must have the same weights, under
every strategy.
"""

import gc
import os
import signal
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
import torch._dynamo  # an optimizer's first step imports it; forks have it then
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing import start_processes

from benchmarks.parallel_loops import FROZEN, STRATEGIES, Training, by_hand, with_fabric, with_our_handlers
from benchmarks.tables import Table, dumps, loads
from benchmarks.timing import Times, interleaved, ratio
from benchmarks.traffic import Traffic

RANKS = 4
ROUNDS = 41
TIME_LIMIT = 300  # seconds of a process
HAND, OURS, FABRIC = "by hand", "ours", "Fabric"
LOOPS: dict[str, Callable[[str, bool], Training]] = {HAND: by_hand, OURS: with_our_handlers, FABRIC: with_fabric}
Counts = dict[str, tuple[int, int]]


def measure(quick: bool) -> list[Table]:
    steps, traffic = _tables()
    gc.collect()
    gc.freeze()  # what is imported; collecting it in each fork would copy its memory
    with tempfile.TemporaryDirectory() as folder:
        start_processes(_work, (folder, 2 if quick else ROUNDS), RANKS, daemon=True, start_method="fork")
        found = loads(Path(folder, "found.json").read_text())
    for strategy, frozen, times, counts in found:
        row = strategy, f"{FROZEN} blocks" if frozen else "none"
        ratios = (ratio(times[OURS], times[beside]) for beside in (HAND, FABRIC))
        steps.add(*row, *(median(times[name]) * 1e3 for name in LOOPS), *ratios)
        collectives, sizes = zip(*(counts[name] for name in LOOPS), strict=True)
        traffic.add(*row, *collectives, *(size / 1024 for size in sizes))
    return [steps, traffic]


def _tables() -> tuple[Table, Table]:
    rows = {"strategy": "", "frozen": ""}
    steps = Table(
        "steps",
        rows | {f"{name}, ms": ",.1f" for name in LOOPS} | {f"{OURS} ÷ {beside}": ".2f" for beside in (HAND, FABRIC)},
        caption=f"An update on {RANKS} gloo processes of one thread each: forward, backward, clipping by norm, SGD. "
        "All loops of all strategies end with the same weights.",
        note="Medians on rank 0; the ratios, taken round by round, with their quartiles. The start of a run is left "
        "out. Fabric's FSDPStrategy refuses a CPU: FSDP2 and tensor parallelism are its ModelParallelStrategy.",
    )
    traffic = Table(
        "traffic",
        rows | {f"collectives {name}": "" for name in LOOPS} | {f"KiB {name}": ",.2f" for name in LOOPS},
        caption="What rank 0 sends in an update: collectives, and the bytes of the larger of what each takes and "
        'gives. With on_nonfinite="raise", the default, our clipper makes all ranks agree on the norm, by one '
        'collective more ("propagate" does without); under FSDP2 they agree already, because they compute it together.',
    )
    return steps, traffic


def _work(rank: int, folder: str, rounds: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # start_processes sends it if the parent ends
    signal.alarm(TIME_LIMIT)  # ends this process, and start_processes then ends the others
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)  # tells Fabric that it has its processes
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    expected: dict[bool, list[Tensor]] = {}
    found = []
    for strategy in STRATEGIES:
        for frozen in (False, True):
            trainings = {name: make(strategy, frozen) for name, make in LOOPS.items()}
            found.append([strategy, frozen, *_compare(trainings, rounds)])
            for training in trainings.values():
                weights = training.weights()
                torch.testing.assert_close(weights, expected.setdefault(frozen, weights))
    if rank == 0:
        Path(folder, "found.json").write_text(dumps(found))
    dist.destroy_process_group()


def _compare(trainings: dict[str, Training], rounds: int) -> tuple[Times, Counts]:
    times = interleaved({name: partial(_timed, each) for name, each in trainings.items()}, rounds=rounds, number=1)
    counts: Counts = {}
    for name, training in trainings.items():
        with Traffic() as traffic:
            training.update()
        counts[name] = traffic.collectives, traffic.bytes
    return times, counts


def _timed(training: Training) -> float:
    dist.barrier()
    started = time.perf_counter()
    training.update()
    return time.perf_counter() - started
