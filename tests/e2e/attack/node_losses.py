"""Losses of one of two nodes, each a network namespace.

The other node has to end within the time that heartbeats allow, with an exit code and a sentence, and leave nothing. A
break that is shorter than that must cost nothing.
"""

import contextlib
import os
import random
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.ignite_launch.hosts import Host, start_on_both, wait_ready_on_both
from tests.ignite_launch.support import Launch, marked_processes, wait_until

__all__ = ["Loss", "draw_loss", "lose_a_node"]

# A power failure, a machine that hangs, a launcher or a worker that is killed, a cable that is cut for good or briefly.
KINDS = ("power", "hang", "launcher", "worker", "cable", "short break")
_TOO_LONG, _BREAK = 60.0, 4.0
_TRAIN = """
import os, pathlib, time
pathlib.Path(f"ready{os.environ['LOCAL_RANK']}").touch()
while not pathlib.Path("end").exists(): time.sleep(0.02)
"""


@dataclass(frozen=True)
class Loss:
    """What happens to which node, after ``moment`` seconds of training."""

    kind: str
    node: int
    moment: float

    def __str__(self) -> str:
        return f"{self.kind} of node {self.node} after {self.moment:.1f} s"


def draw_loss(source: random.Random) -> Loss:
    """Return a random loss."""
    return Loss(source.choice(KINDS), source.randrange(2), source.uniform(0, 3))


def lose_a_node(folder: Path, hosts: tuple[Host, Host], loss: Loss) -> str:
    """Train on two nodes, lose one, and return what is wrong then; "" if nothing is."""
    (folder / "train.py").write_text(_TRAIN)
    try:
        with ExitStack() as stack:
            runs = start_on_both(stack, folder, hosts, "--grace", "2", "--nnodes", "2", str(folder / "train.py"))
            wait_ready_on_both(runs)
            begin = time.monotonic()
            wait_until(lambda: time.monotonic() - begin > loss.moment, "the moment")
            stack.callback(hosts[loss.node].set_cable, "up")
            _lose(runs[loss.node], hosts[loss.node], loss)
            survivor = runs[1 - loss.node]
            result = survivor.result(_TOO_LONG)
            return _judge(result.code, result.err, loss) or _end_the_lost(runs[loss.node], loss)
    except Exception as error:  # a launcher that does not end, or leaves something
        return f"{type(error).__name__}: {error}"


def _lose(run: Launch, host: Host, loss: Loss) -> None:
    pids = {run.process.pid, *marked_processes(run.tmp_path)}
    if loss.kind == "launcher":
        _send(run.process.pid, signal.SIGKILL)
    elif loss.kind == "worker":
        workers = [pid for pid in pids if b"train.py" in _command(pid) and pid != run.process.pid]
        _send(workers[0], signal.SIGKILL)
    elif loss.kind in ("power", "hang"):
        for pid in pids:
            _send(pid, signal.SIGKILL if loss.kind == "power" else signal.SIGSTOP)
    else:
        host.set_cable("down")
    if loss.kind == "short break":
        time.sleep(_BREAK)
        host.set_cable("up")
        for file in run.tmp_path.parent.glob("host*"):
            (file / "end").touch()


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # a signal to one process may end the next
        os.kill(pid, number)


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def _judge(code: int, err: str, loss: Loss) -> str:
    expected = {"short break": 0, "worker": 137}.get(loss.kind, 1)
    if code != expected:
        return f"the other node ended with {code}: {err[-300:]}"
    if "Traceback" in err:
        return f"a traceback: {err[-500:]}"
    if code and not err.splitlines()[-1].startswith("ignite-launch: error: "):
        return f"no sentence: {err[-300:]}"
    return ""


def _end_the_lost(run: Launch, loss: Loss) -> str:
    """Let a node that hung go on, and wait for the end of the lost one."""
    if loss.kind == "hang":
        for pid in {run.process.pid, *marked_processes(run.tmp_path)}:
            _send(pid, signal.SIGCONT)
    code = run.result(_TOO_LONG).code
    if (code == 0) != (loss.kind == "short break"):
        return f"the lost node ended with {code}"
    return ""
