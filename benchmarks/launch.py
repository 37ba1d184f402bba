"""What starting costs: ``ignite-launch`` beside plain ``python`` for one process, beside ``torchrun`` for two.

The script does what every training script does first: it imports torch and, where it is one of several, joins the
process group; then it ends. The times are those from the command to its end, so that the end is in them too.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles

from benchmarks.timing import interleaved

ROUNDS = 7
SCRIPT = """
import os, torch
if "RANK" in os.environ:
    torch.distributed.init_process_group("gloo")
    torch.distributed.all_reduce(torch.ones(1))
    torch.distributed.destroy_process_group()
"""


def main() -> None:
    print("| processes | ignite-launch | beside | its time | ratio |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        script = str(Path(folder, "script.py"))
        Path(script).write_text(SCRIPT)
        # Threads as the launcher sets them, so that the script's own start is the same.
        threads = str(max(1, len(os.sched_getaffinity(0)) // 2))
        environment = os.environ | {"OMP_NUM_THREADS": threads, "TMPDIR": folder}
        launch = [sys.executable, "-m", "ignite_launch", "--gpus", "none"]
        torchrun = [sys.executable, "-m", "torch.distributed.run"]
        for processes, name, ours, theirs in (
            (1, "python script.py", launch, [sys.executable]),
            (2, "torchrun", [*launch, "--nproc", "2"], [*torchrun, "--nproc-per-node", "2"]),
            (
                2,
                "torchrun --standalone",
                [*launch, "--nproc", "2"],
                [*torchrun, "--standalone", "--nproc-per-node", "2"],
            ),
        ):
            runs = {"ours": _run([*ours, script], environment), "theirs": _run([*theirs, script], environment)}
            times = interleaved(runs, rounds=ROUNDS, number=1)
            ratios = [one / other for one, other in zip(times["ours"], times["theirs"], strict=True)]
            cells = (f"{median(times['ours']):.2f} s", name, f"{median(times['theirs']):.2f} s", _spread(ratios))
            print(f"| {processes} | {' | '.join(cells)} |", flush=True)
    print(f"\nMedians of {ROUNDS} rounds in alternation; of the ratio, taken round by round, also the quartiles.")


def _run(command: list[str], environment: dict[str, str]) -> Callable[[], object]:
    return lambda: subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)


def _spread(values: list[float]) -> str:
    low, middle, high = quantiles(values, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
