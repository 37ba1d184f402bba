"""Random signals to random processes of a run at random moments.

Whatever happens, the launcher has to end with an exit code that the cause explains, no process and no file of the run
may be left, and the launcher may print no traceback.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.ignite_launch.scripts import write_script
from tests.ignite_launch.support import Launch, Result, environment, marked_processes, wait_until

__all__ = ["Death", "attack", "draw", "torchrun_leaves"]

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

    @property
    def is_harmless(self) -> bool:
        """Whether the run goes on."""
        return self.number == signal.SIGSTOP or self.victim in ("reaper", "grandchild")

    def explains(self, code: int) -> bool:
        """Whether a launcher may end with this exit code."""
        if code == 0 or self.is_harmless:
            return code == 0 and (self.is_harmless or self.phase != "training")
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
            _act(folder, running.process.pid, death)
            return _judge(running.result(_TOO_LONG), death)
    except Exception as error:  # a process or a file that is left, or a launcher that does not end
        return f"{type(error).__name__}: {error}"


def torchrun_leaves(folder: Path, death: Death) -> int:
    """Run the same under torchrun; return how many processes of the run live two seconds after it ended.

    A torchrun that does not end within 40 seconds counts as one of them.
    """
    script = write_script(folder, _TRAIN)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = subprocess.Popen(command, cwd=folder, env=environment(folder), start_new_session=True, **quiet)
    try:
        _act(folder, running.pid, death)
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(40)
            time.sleep(2)
        return len(marked_processes(folder))
    finally:
        for pid in marked_processes(folder):
            os.kill(pid, signal.SIGKILL)
        running.wait()


def _act(folder: Path, launcher: int, death: Death) -> None:
    """Wait for the moment, send the signal, and let the workers end unless it has to end them."""
    begin = time.monotonic()
    if death.phase == "start":
        _wait_while(lambda: time.monotonic() - begin < _EARLIEST + death.moment * _STARTING)
    else:
        wait_until(lambda: all((folder / f"ready{rank}").exists() for rank in range(2)), "the start", 60)
    if death.phase == "end":
        (folder / "end").touch()
        ended = time.monotonic()
        _wait_while(lambda: time.monotonic() - ended < death.moment * _ENDING)
    _send(folder, launcher, death)
    if death.is_harmless or death.phase != "training":
        (folder / "end").touch()


def _wait_while(condition: Callable[[], bool]) -> None:
    wait_until(lambda: not condition(), "the moment", 60)


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
