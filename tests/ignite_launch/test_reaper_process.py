"""The sweep that kills a run's processes, among processes of any name."""

import io
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest
from ignite_launch import reaper_process

from tests.ignite_launch.support import Launch, wait_until

# The kernel cuts names at 15 bytes, the first in the middle of an "ä".
_NAMES = ["nnächtlicherläuf".encode()[:15], b"a) R 1 1 1", b") (\xff) Z ("]
_SLEEP = """
import ctypes, os, pathlib, sys, time
ctypes.CDLL(None).prctl(15, bytes.fromhex(sys.argv[1]))
pathlib.Path(sys.argv[2]).touch()
time.sleep(1000)
"""
_TRAIN = """
import os, pathlib, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], start_new_session=True)
pathlib.Path(f"ready{os.environ['RANK']}{os.environ['TORCHELASTIC_RESTART_COUNT']}").touch()
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0": sys.exit(3)
time.sleep(1000)
"""
Start = Callable[[bytes, str], int]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a process with a given name in a given run; all are killed at the end."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(name: bytes, run_id: str) -> int:
        ready = tmp_path / f"up{len(processes)}"
        command = [sys.executable, "-I", "-S", "-c", _SLEEP, name.hex(), str(ready)]
        processes.append(
            subprocess.Popen(command, env={reaper_process.RUN_ID_VARIABLE: run_id}, start_new_session=True)
        )
        wait_until(ready.exists, "the start of a process")
        return processes[-1].pid

    yield start
    for process in processes:
        process.kill()
        process.wait()


def _state(pid: int) -> bytes:
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]


@pytest.mark.parametrize("name", _NAMES)
def test_a_sweep_reads_any_name(start: Start, name: bytes) -> None:
    """A sweep kills its own run's process and leaves a foreign one, whatever bytes their names hold."""
    run_id = secrets.token_hex(8)
    own, foreign = start(name, run_id), start(name, "another")
    assert reaper_process.start_time(own).isdecimal()
    reaper_process.sweep(run_id, {})
    wait_until(lambda: _state(own) == b"Z", "the end of what was killed")
    assert _state(foreign) == b"S"


def test_a_process_that_cannot_be_killed_ends_no_sweep(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may not be killed is skipped; the run's other processes are killed."""
    run_id = secrets.token_hex(8)
    first, refused, last = (start(b"worker", run_id) for _ in range(3))
    kill = os.kill

    def refuse(pid: int, number: int) -> None:
        if pid == refused:
            raise PermissionError
        kill(pid, number)

    monkeypatch.setattr(os, "kill", refuse)
    reaper_process.sweep(run_id, {})
    wait_until(lambda: [_state(pid) for pid in (first, last)] == [b"Z", b"Z"], "the end of what was killed")
    assert _state(refused) == b"S"


def test_a_launch_beside_a_process_whose_name_is_not_utf8(tmp_path: Path, start: Start) -> None:
    """A foreign process with such a name affects neither a restart nor the cleanup after SIGKILL."""
    foreign = start(_NAMES[0], "another")
    (tmp_path / "train.py").write_text(_TRAIN)
    with Launch(tmp_path, "--nproc", "2", "--max-restarts", "1", "train.py") as running:
        files = [tmp_path / f"ready{rank}1" for rank in range(2)]
        wait_until(lambda: all(file.exists() for file in files), "the restart of the workers")
        running.process.kill()
        running.result()
    assert _state(foreign) == b"S"


def test_a_session_counts_where_the_environment_cannot_be_read(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of a worker's session that the kernel lets nobody look into is killed all the same."""
    pid = start(b"worker", "unreadable")

    def refuse(path: str, mode: str) -> IO[bytes]:
        if path.endswith("environ"):
            raise PermissionError
        return open(path, mode)

    monkeypatch.setattr(reaper_process, "open", refuse, raising=False)
    reaper_process.sweep("run", {pid: reaper_process.start_time(pid)})
    wait_until(lambda: _state(pid) == b"Z", "the end of what was killed")


def test_sessions_of_earlier_starts_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart only the new workers' sessions count: the kernel may give the old numbers to other processes."""
    swept: list[dict[int, str]] = []
    monkeypatch.setattr(reaper_process, "sweep", lambda run_id, sessions: swept.append(sessions))
    monkeypatch.setattr(reaper_process.signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{os.getppid()} 1\n{os.getpid()}\n"))
    reaper_process.main("run")
    assert swept == [{os.getpid(): reaper_process.start_time(os.getpid())}]
