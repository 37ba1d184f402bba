"""Import time in whole processes: ours compared with torch and Ignite alone, the launcher compared with torchrun.

Each row is a process from start to end, alternating with the one it is compared with.
"""

import sys
from statistics import median

from benchmarks.tables import Bar, Table
from benchmarks.timing import interleaved, ratio, run_process

ROUNDS = 15
MOST = 1.1  # the bar for each ratio
TORCHRUN_HELP = ["-m", "torch.distributed.run", "--help"]
BASE = "import torch, ignite.engine, ignite.handlers"
CASES: dict[str, tuple[list[str], str, list[str]]] = {
    "import ignite_tips": (["-c", f"{BASE}, ignite_tips"], "torch and Ignite alone", ["-c", BASE]),
    "with Ignite's TensorBoard logger": (
        ["-c", f"{BASE}, torch.utils.tensorboard, ignite_tips"],
        "the same without ignite_tips",
        ["-c", f"{BASE}, torch.utils.tensorboard"],
    ),
    "ignite-launch --help": (
        ["-m", "ignite_launch", "--help"],
        "torchrun --help",
        ["-m", "torch.distributed.run", "-h"],
    ),
}


def measure(quick: bool) -> list[Table]:
    table = Table(
        "processes",
        {"process": "", "s": ".3f", "compared with": "", "its s": ".3f", "more, ms": ",.0f", "ratio": ".2f", "bar": ""},
        note="Medians of processes in alternation, files in the system's cache; the ratio with its quartiles.",
    )
    for name, (ours, beside, theirs) in CASES.items():
        runs = {"ours": run_process([sys.executable, *ours]), "theirs": run_process([sys.executable, *theirs])}
        seconds = interleaved(runs, rounds=3 if quick else ROUNDS, number=1)
        middles = [median(seconds[one]) for one in ("ours", "theirs")]
        more = median(one - other for one, other in zip(seconds["ours"], seconds["theirs"], strict=True))
        times = ratio(seconds["ours"], seconds["theirs"])
        table.add(name, middles[0], beside, middles[1], more * 1e3, times, Bar(MOST, times.middle))
    return [table]
