"""Start-up cost: ``ignite-launch`` compared with plain ``python`` for one process, and with ``torchrun`` for two.

The script does what every training script does first: it imports torch and, if there are several processes, joins the
process group. Then it ends. The time is that of the whole command, including its end.
"""

import os
import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.peers import add_peers, peer_table
from benchmarks.tables import Table
from benchmarks.timing import Times, interleaved, ratio, run_process

ROUNDS = 7
SCRIPT = """
import os, torch
if "RANK" in os.environ:
    torch.distributed.init_process_group("gloo")
    torch.distributed.all_reduce(torch.ones(1))
    torch.distributed.destroy_process_group()
"""


def measure(quick: bool) -> list[Table]:
    table = Table(
        "seconds",
        {"processes": "", "ignite-launch, s": ".2f", "compared with": "", "its time, s": ".2f", "ratio": ".2f"},
        note="Medians of processes in alternation; the ratio, taken round by round, with its quartiles.",
    )
    peers = peer_table()
    for (processes, beside), times in _times(3 if quick else ROUNDS).items():
        middles = [median(times[one]) for one in ("ours", "theirs")]
        table.add(processes, middles[0], beside, middles[1], ratio(times["ours"], times["theirs"]))
        theirs = "by hand" if processes == 1 else beside
        case = "1 process, compared with python" if processes == 1 else f"{processes} processes"
        add_peers(peers, case, {"ours": times["ours"], theirs: times["theirs"]})
    return [table, peers]


def _times(rounds: int) -> dict[tuple[int, str], Times]:
    launch = [sys.executable, "-m", "ignite_launch", "--gpus", "none"]
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    two = [*launch, "--nproc", "2"]
    cases = {
        (1, "python script.py"): (launch, [sys.executable]),
        (2, "torchrun"): (two, [*torchrun, "--nproc-per-node", "2"]),
        (2, "torchrun --standalone"): (two, [*torchrun, "--standalone", "--nproc-per-node", "2"]),
    }
    with tempfile.TemporaryDirectory() as folder:
        script = str(Path(folder, "script.py"))
        Path(script).write_text(SCRIPT)
        # The same number of threads as the launcher sets, so the script itself starts equally fast.
        threads = str(max(1, len(os.sched_getaffinity(0)) // 2))
        environment = os.environ | {"OMP_NUM_THREADS": threads, "TMPDIR": folder}
        times = {}
        for case, commands in cases.items():
            sides = zip(("ours", "theirs"), commands, strict=True)
            runs = {side: run_process([*command, script], environment) for side, command in sides}
            times[case] = interleaved(runs, rounds=rounds, number=1)
    return times
