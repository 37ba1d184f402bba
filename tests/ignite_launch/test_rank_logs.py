"""--log-dir: the log file of each rank, and what the console shows."""

from pathlib import Path

from tests.ignite_launch.support import launch

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
