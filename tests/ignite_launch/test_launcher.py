"""Exit codes, and what happens to the other workers after a failure."""

from pathlib import Path

import pytest

from tests.ignite_launch.scripts import STUBBORN, write_script
from tests.ignite_launch.support import launch
from tests.support import run_script

_ALONE = "ignite-launch: none of the 2 processes created a process group, so each trained on its own: "


@pytest.mark.parametrize("nproc", ["1", "2"])
@pytest.mark.parametrize(
    ("death", "code"),
    [
        ("", 0),
        ("sys.exit(17)", 17),
        ("raise ValueError('a reason')", 1),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137),
    ],
)
def test_the_exit_code_is_the_workers(tmp_path: Path, nproc: str, death: str, code: int) -> None:
    """The launcher exits with the failing worker's code, or 128 + n for signal n, and ends the other workers."""
    script = write_script(
        tmp_path, f"if RANK == {int(nproc) - 1}:\n    {death or 'pass'}\nelif {code}: time.sleep(1000)"
    )
    result = launch(tmp_path, "--nproc", nproc, script)
    # A single process is the worker itself: the kernel reports its signal as such.
    assert result.code == (code if code < 128 or nproc == "2" else 128 - code)
    if nproc == "2" and code:
        assert "rank 1 (pid" in result.err
    if "ValueError" in death:
        assert "ValueError: a reason" in result.err
    assert (_ALONE in result.err) == (nproc == "2" and code == 0)


def test_a_restart_without_a_process_group_is_told(tmp_path: Path) -> None:
    """The process group of an earlier start doesn't count, and the line is the last one."""
    group = "import torch.distributed as dist\n    dist.init_process_group('gloo')\n    sys.exit(3)\n"
    script = write_script(tmp_path, "if os.environ['TORCHELASTIC_RESTART_COUNT'] == '0':\n    ", group)
    result = launch(tmp_path, "--nproc", "2", "--max-restarts", "1", script)
    assert result.code == 0, result.err
    assert "restart 1 of 1" in result.err
    assert _ALONE in result.err.splitlines()[-1]


def test_a_failure_ends_the_others_within_the_grace_time(tmp_path: Path) -> None:
    """Workers that ignore SIGTERM are killed when the grace time is over."""
    script = write_script(tmp_path, STUBBORN, "ready()\nif RANK: sys.exit(9)\ntime.sleep(1000)")
    result = launch(tmp_path, "--nproc", "2", "--grace", "1", script)
    assert result.code == 9
    assert result.seconds < 15


def test_an_error_of_the_launcher_itself_ends_it(tmp_path: Path) -> None:
    """The launcher prints the traceback and exits with 1, and does not wait for threads that wait for ever."""
    script = tmp_path / "broken.py"
    script.write_text(
        "import sys, threading\nfrom ignite_launch import cli, launcher\n"
        "def fail(*_):\n    threading.Thread(target=threading.Event().wait).start()\n    raise KeyError('injected')\n"
        "launcher._run_agent = fail\ncli.main(sys.argv[1:])"
    )
    (ended,) = run_script(script, "--nproc", "2", write_script(tmp_path), folder=tmp_path)
    assert ended.code == 1
    assert ended.err.endswith("KeyError: 'injected'\n")
