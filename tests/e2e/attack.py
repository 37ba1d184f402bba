"""Attack launches: random signals to random processes of a run at random moments, and strange environments.

python -m tests.e2e.attack --deaths 150 --environments 100 --seed 0

Whatever happens, the launcher has to end with an exit code that the cause explains, no process and no file of the run
may be left, and the launcher may print no traceback.
"""

import argparse
import os
import random
import signal
import string
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.ignite_launch.scripts import write_script
from tests.ignite_launch.support import Launch, Result, marked_processes, wait_until

__all__ = ["Death", "attack", "draw", "try_environment"]

VICTIMS = ("launcher", "reaper", "worker", "grandchild", "group")
SIGNALS = ("KILL", "TERM", "HUP", "INT", "QUIT", "USR1", "STOP")
PHASES = ("start", "training", "end")
# Earlier, Python itself starts, and answers Ctrl-C with a traceback.
_EARLIEST, _STARTING, _ENDING, _TOO_LONG = 0.4, 3.0, 0.7, 60.0
# Each rank has a child in a session of its own, trains until told to end, and says so in its last line.
_TRAIN = """
subprocess.Popen(["sleep", "1000"], start_new_session=True)
ready()
while not pathlib.Path("end").exists(): time.sleep(0.02)
time.sleep(0.3)
print(f"rank {RANK} done", flush=True)
"""


@dataclass(frozen=True)
class Death:
    """A signal to one of a run's processes. ``moment``, from 0 to 1, is where in the phase it comes."""

    victim: str
    number: signal.Signals
    phase: str
    moment: float

    def __str__(self) -> str:
        return f"{self.number.name} to the {self.victim} in the {self.phase}, at {self.moment:.2f}"

    def explains(self, code: int) -> bool:
        """Whether a launcher may end with this exit code."""
        is_harmless = self.number == signal.SIGSTOP or self.victim in ("reaper", "grandchild")
        if code == 0 or is_harmless:
            return code == 0 and (is_harmless or self.phase != "training")
        # What the signal makes of the launcher, of the first worker, and of a worker whose Ctrl-C is an exception.
        return code in (-self.number, 128 + self.number, *((1,) if self.number == signal.SIGINT else ()))


def draw(source: random.Random) -> Death:
    """Return a random death."""
    number = getattr(signal, f"SIG{source.choice(SIGNALS)}")
    return Death(source.choice(VICTIMS), number, source.choice(PHASES), source.random())


def attack(folder: Path, death: Death) -> str:
    """Run two workers, send the signal, and return what is wrong then; "" if nothing is."""
    script = write_script(folder, _TRAIN)
    try:
        with Launch(folder, "--nproc", "2", "--grace", "2", "--log-dir", "logs", script, fresh=True) as running:
            begin = time.monotonic()
            if death.phase == "start":
                _wait_while(lambda: time.monotonic() - begin < _EARLIEST + death.moment * _STARTING)
            else:
                wait_until(lambda: all((folder / f"ready{rank}").exists() for rank in range(2)), "the start", 60)
            if death.phase == "end":
                (folder / "end").touch()
                ended = time.monotonic()
                _wait_while(lambda: time.monotonic() - ended < death.moment * _ENDING)
            _send(folder, running.process.pid, death)
            (folder / "end").touch()
            return _judge(running.result(_TOO_LONG), death)
    except Exception as error:  # a process or a file that is left, or a launcher that does not end
        return f"{type(error).__name__}: {error}"


def _wait_while(condition: object) -> None:
    wait_until(lambda: not condition(), "the moment", 60)  # type: ignore[operator]


def _send(folder: Path, launcher: int, death: Death) -> None:
    """Send the signal to one of the victims that are there; a stopped process goes on after a moment."""
    pids = _victims(folder, launcher, death.victim)
    for pid in pids[:1]:
        kill = os.killpg if death.victim == "group" else os.kill
        try:
            kill(pid, death.number)
            if death.number == signal.SIGSTOP:
                time.sleep(0.3)
                kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            return  # it has just ended by itself


def _victims(folder: Path, launcher: int, victim: str) -> list[int]:
    if victim in ("launcher", "group"):
        return [launcher]
    words = {"reaper": b"reaper_process.py", "worker": b"script.py", "grandchild": b"sleep"}
    return [pid for pid in marked_processes(folder) if pid != launcher and words[victim] in _command(pid)]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _judge(result: Result, death: Death) -> str:
    if not death.explains(result.code):
        return f"exit code {result.code}"
    if "ignite_launch" in result.err and "Traceback" in result.err:
        return f"a traceback: {result.err[-500:]}"
    if result.code == 0 and "rank 0 done" not in result.out:
        return "exit code 0, but rank 0 was not done"
    return ""


def try_environment(folder: Path, source: random.Random) -> str:
    """Launch with random variables of the kinds that a launcher reads; return what is wrong; "" if nothing is.

    Right is a run to the end, or one sentence and exit code 2 or 1.
    """
    names = [
        *("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS", "LOGLEVEL"),
        *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "TORCH_CPP_LOG_LEVEL", "TORCHELASTIC_RUN_ID", "LANG", "LC_ALL"),
        *("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_NODEID", "SLURM_STEP_NUM_NODES", "HOME", "TZ"),
        *("IGNITE_LAUNCH_STRATEGY", "IGNITE_LAUNCH_BACKEND", "IGNITE_LAUNCH_RUN_ID", "PYTHONUNBUFFERED", "COLUMNS"),
    ]
    values = ["", "0", "1", "-1", "2", "abc", "ä", "9" * 30, " ", "/", "localhost", "127.0.0.1", "None", "\udcff"]
    values.append("".join(source.choices(string.printable, k=20)))
    chosen = {name: source.choice(values) for name in source.sample(names, source.randint(1, 6))}
    script = write_script(folder, 'print(f"rank {RANK} done", flush=True)')
    nproc = source.choice(["1", "2"])
    try:
        with Launch(folder, "--nproc", nproc, script, fresh=True, **chosen) as running:
            result = running.result(_TOO_LONG)
    except Exception as error:
        return f"{chosen}, --nproc {nproc}: {type(error).__name__}: {error}"
    sentence = result.code in (1, 2) and "ignite-launch: error: " in result.err
    script_failed = result.code == 1 and "script.py" in result.err  # such as a RANK that is no number
    if (result.code == 0 and "done" in result.out) or sentence or script_failed:
        return ""
    return f"{chosen}, --nproc {nproc}: exit code {result.code}: {result.err[-500:]}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.attack", description=__doc__)
    parser.add_argument("--deaths", type=int, default=150)
    parser.add_argument("--environments", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    source = random.Random(arguments.seed)
    counts: Counter[str] = Counter()
    failures = []
    for number in range(arguments.deaths + arguments.environments):
        with tempfile.TemporaryDirectory() as folder:
            if number < arguments.deaths:
                death = draw(source)
                kind, wrong = f"{death.number.name} to the {death.victim}", attack(Path(folder), death)
                wrong = wrong and f"{death}: {wrong}"
            else:
                kind, wrong = "environment", try_environment(Path(folder), source)
        counts[kind] += 1
        if wrong:
            failures.append(wrong)
            print(f"FAILED: {wrong}", flush=True)
    for kind in sorted(counts):
        print(f"{kind:<40} {counts[kind]:4d}")
    print(f"{'failures':<40} {len(failures):4d}   (seed {arguments.seed})")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
