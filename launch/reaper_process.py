"""Process that outlives the launcher and kills what the launcher leaves behind, whatever ended the launcher.

Run as a file without site packages: ``reaper_process.py RUN_ID``, with a pipe from the launcher as stdin. The launcher
writes the workers' process ids at each start, in a line; each worker leads a session of its own. When the launcher
ends, by exit, crash or SIGKILL, the pipe closes and every process of the run is killed, after a moment to end by
itself: torch and Python have processes that remove a dead worker's shared memory.

A process belongs to the run if the environment it was started with holds the run's id, or if it is in a worker's
session. The session counts even for a process that cleared its environment.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator

__all__ = ["RUN_ID_VARIABLE", "main", "start_time", "sweep"]

# A nested launch appends its id after a colon, so the end of the outer launch ends the inner one too.
RUN_ID_VARIABLE = "IGNITE_LAUNCH_RUN_ID"
_CLEANUP_TIME = 1.0
_SWEEP_TIMEOUT = 10.0
# Raised for a process that is gone, that belongs to another user, or whose stat file can't be read.
_UNREADABLE = (OSError, IndexError, ValueError)


def main(run_id: str) -> None:
    """Wait until the launcher has ended, then sweep."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    sessions: dict[int, str] = {}
    for line in sys.stdin:
        sessions = {leader: start_time(leader) for leader in map(int, line.split())}
    sweep(run_id, sessions)


def sweep(run_id: str, sessions: dict[int, str]) -> None:
    """Kill every process of the run that does not end by itself, until none is left: it may fork before it is killed.

    Args:
        run_id: id of the run.
        sessions: start times of the workers, by process id, which is also the session's id.
    """
    begin = time.monotonic()
    denied: set[int] = set()
    while (waited := time.monotonic() - begin) < _SWEEP_TIMEOUT:
        victims = [pid for pid in _processes() if pid not in denied and _belongs(pid, run_id, sessions)]
        if not victims:
            return
        if waited < _CLEANUP_TIME:
            time.sleep(0.02)
            continue
        denied.update(pid for pid in victims if not _kill(pid))
        time.sleep(0.002)


def _kill(pid: int) -> bool:
    """Kill a process; return False if that isn't allowed."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:  # it has ended
        return True
    except OSError:  # it belongs to another user by now
        return False
    return True


def _processes() -> Iterator[int]:
    own = {os.getpid(), os.getppid()}
    return (int(name) for name in os.listdir("/proc") if name.isdecimal() and int(name) not in own)


def _belongs(pid: int, run_id: str, sessions: dict[int, str]) -> bool:
    try:
        stat = _stat(pid)
        state, session = stat[0], int(stat[3])
        if state in "ZX":  # zombie or dead
            return False
        # The kernel may reuse a session's id only once the session is empty; a new leader then has another start time.
        if session in sessions and start_time(session) in ("", sessions[session]):
            return True
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except _UNREADABLE:
        return False
    prefix = f"{RUN_ID_VARIABLE}=".encode()
    ids = next((entry[len(prefix) :] for entry in variables if entry.startswith(prefix)), b"")
    return run_id.encode() in ids.split(b":")


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name, which may hold any bytes, spaces and parentheses too."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].decode("ascii").split()


def start_time(pid: int) -> str:
    """Return when the process started, in kernel ticks, or "" if there is no such process."""
    try:
        return _stat(pid)[19]
    except _UNREADABLE:
        return ""


if __name__ == "__main__":
    main(sys.argv[1])
