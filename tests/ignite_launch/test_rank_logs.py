"""--log-dir: the log file of each rank, and what the console shows."""

import os
import resource
import threading
from functools import partial
from pathlib import Path

import psutil
import pytest
from ignite_launch import rank_logs

from tests.ignite_launch.scripts import wait_ready, write_script
from tests.ignite_launch.support import Launch, launch

_TALK = """
import os, sys
rank = int(os.environ["RANK"])
print(f"out {rank}", flush=True); print(f"err {rank}", file=sys.stderr, flush=True)
print("x" * 200_000, "end", rank)
"""


def test_each_rank_has_a_file_and_rank_0_the_console(tmp_path: Path) -> None:
    """A rank's file has its stdout and stderr in whole lines; the console shows rank 0's on separate streams."""
    (tmp_path / "talk.py").write_text(_TALK)
    result = launch(tmp_path, "--nproc", "2", "--log-dir", "logs/new", "talk.py")
    assert result.code == 0
    for rank in range(2):
        header, *lines = (tmp_path / "logs" / "new" / f"rank_{rank}.log").read_text().splitlines()
        assert header.endswith(f"rank {rank}, restart 0")
        expected = [f"out {rank}", f"err {rank}", f"{'x' * 200_000} end {rank}"]
        # Rank 0's streams come through two pipes.
        assert lines == expected if rank else sorted(lines) == sorted(expected)
    assert result.out.splitlines() == ["out 0", f"{'x' * 200_000} end 0"]
    assert "err 0\n" in result.err
    assert "err 1\n" not in result.err


def test_a_failing_ranks_traceback_is_shown(tmp_path: Path) -> None:
    """Rank 1's traceback is printed, although its output goes to a file; each of two restarts appends to the file."""
    fail = "print('before', file=sys.stderr)\nif rank == 1: raise ValueError('a reason')\nimport time; time.sleep(1000)"
    (tmp_path / "talk.py").write_text(_TALK + fail)
    result = launch(tmp_path, "--nproc", "2", "--log-dir", "logs", "--max-restarts", "2", "talk.py")
    assert result.code == 1
    assert result.err.count("Traceback") == 1
    assert result.err.endswith("ValueError: a reason\n")
    assert [f"restart {number} of 2" in result.err for number in (1, 2, 3)] == [True, True, False]
    log = (tmp_path / "logs" / "rank_1.log").read_text()
    assert log.count("ValueError: a reason") == 3
    assert [line.partition("rank 1, ")[2] for line in log.splitlines() if line.startswith("===")] == [
        "restart 0",
        "restart 1",
        "restart 2",
    ]


def test_one_process_is_logged_too(tmp_path: Path) -> None:
    """With a log folder, a single process runs as a worker of the launcher."""
    (tmp_path / "talk.py").write_text(_TALK)
    result = launch(tmp_path, "--log-dir", "logs", "talk.py")
    assert result.code == 0
    assert {"out 0", "err 0"} < set((tmp_path / "logs" / "rank_0.log").read_text().splitlines())


def test_a_file_as_log_folder_is_an_error(tmp_path: Path) -> None:
    """--log-dir with the name of a file gives one sentence and exit code 2."""
    (tmp_path / "talk.py").write_text(_TALK)
    result = launch(tmp_path, "--nproc", "2", "--log-dir", "talk.py", "talk.py")
    assert result.code == 2
    assert result.err.splitlines()[-1].startswith(
        "ignite-launch: error: --log-dir must be a folder to write to, got 'talk.py'"
    )


@pytest.mark.parametrize("kind", ["FIFO", "link"])
def test_a_log_file_must_be_a_regular_file(tmp_path: Path, kind: str) -> None:
    """A FIFO or a link in the file's place is refused in a sentence: no wait for a reader, no write elsewhere."""
    (tmp_path / "talk.py").write_text(_TALK)
    (tmp_path / "logs").mkdir()
    path, elsewhere = tmp_path / "logs" / "rank_1.log", tmp_path / "elsewhere"
    elsewhere.touch()
    if kind == "FIFO":
        os.mkfifo(path)
    else:
        path.symlink_to(elsewhere)
    result = launch(tmp_path, "--nproc", "2", "--log-dir", "logs", "talk.py")
    assert result.code == 2
    assert "error: --log-dir logs: cannot write rank_1.log: " in result.err
    assert not elsewhere.read_bytes()


def test_a_full_disk_is_told_and_stops_no_worker(tmp_path: Path) -> None:
    """The launcher says which file can't be written, once; the run and the console go on."""
    (tmp_path / "talk.py").write_text(_TALK)
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (2048, 2048))  # as on a full disk, a write fails
    with Launch(tmp_path, "--nproc", "2", "--log-dir", "logs", "talk.py", first=limit) as running:
        result = running.result()
    assert result.code == 0
    assert result.err.count("cannot write logs/rank_1.log: File too large; this rank's further output is not") == 1


def test_a_console_that_does_not_block_gets_everything() -> None:
    """A pipe that its reader has made non-blocking is waited for when it is full."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    data = bytes(range(256)) * 4000
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.extend(iter(lambda: os.read(read_end, 5000), b"")))
    reader.start()
    rank_logs._write_all(write_end, data)
    os.close(write_end)
    reader.join(30)
    os.close(read_end)
    assert b"".join(received) == data


def test_the_console_costs_no_threads(tmp_path: Path) -> None:
    """Without a log folder the launcher has fewer threads than workers."""
    script = write_script(tmp_path, "ready()\ntime.sleep(1000)")
    with Launch(tmp_path, "--nproc", "6", script) as running:
        wait_ready(tmp_path, 6)
        threads = psutil.Process(running.process.pid).num_threads()
        running.process.kill()
        running.result()
    assert threads < 6
