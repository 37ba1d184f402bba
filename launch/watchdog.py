"""A process that outlives the launcher and ends what the launcher leaves behind, whatever the launcher died of.

Executed as a file, without site packages: ``watchdog.py RUN_ID``, its standard input a pipe from the launcher. Through
the pipe come the process ids of the workers, each of which leads a session of its own. The pipe's end is the launcher's
end, by exit, crash or SIGKILL alike: then every process of the run is killed.

A process belongs to the run if it carries the run's id in the environment it was started with, or if it is in a
worker's session, which holds even if it cleared its environment.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator

__all__ = ["RUN_ID_VARIABLE", "main", "start_time", "sweep"]

# Ids of nested launches are joined by colons, so that the outer one's end is the inner ones' too.
RUN_ID_VARIABLE = "IGNITE_LAUNCH_RUN_ID"
_SWEEP_SECONDS = 10.0


def main(run_id: str) -> None:
    """Wait for the launcher's end, then sweep."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    sessions: dict[int, str] = {}
    for line in sys.stdin:
        leader = int(line)
        sessions[leader] = start_time(leader)
    sweep(run_id, sessions)


def sweep(run_id: str, sessions: dict[int, str]) -> None:
    """Kill every process of the run, and again what they started meanwhile, until none is found."""
    deadline = time.monotonic() + _SWEEP_SECONDS
    not_ours: set[int] = set()
    while time.monotonic() < deadline:
        victims = [pid for pid in _processes() if pid not in not_ours and _belongs(pid, run_id, sessions)]
        if not victims:
            return
        for pid in victims:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            except OSError:  # it changed its user: nothing more can be done about it
                not_ours.add(pid)
        time.sleep(0.002)


def _processes() -> Iterator[int]:
    own = {os.getpid(), os.getppid()}
    return (int(name) for name in os.listdir("/proc") if name.isdecimal() and int(name) not in own)


def _belongs(pid: int, run_id: str, sessions: dict[int, str]) -> bool:
    try:
        stat = _stat(pid)
        state, session = stat[0], int(stat[3])
        if state in "ZX":
            return False
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except (OSError, IndexError, ValueError):  # it is gone, or another user's
        return False
    prefix = f"{RUN_ID_VARIABLE}=".encode()
    ids = next((entry[len(prefix) :] for entry in variables if entry.startswith(prefix)), b"")
    if run_id.encode() in ids.split(b":"):
        return True
    # A session's number is not given out anew while the session has a member; a new leader would have a new start time.
    return session in sessions and start_time(session) in ("", sessions[session])


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name, which may hold any bytes, parentheses and spaces too."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].decode("ascii").split()


def start_time(pid: int) -> str:
    """Return when the process started, in the kernel's ticks; "" if there is none of this id."""
    try:
        return _stat(pid)[19]
    except (OSError, IndexError, ValueError):
        return ""


if __name__ == "__main__":
    main(sys.argv[1])
