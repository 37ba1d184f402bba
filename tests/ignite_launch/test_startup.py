"""The workers' start-up code: how errors are shown, and that a script sees nothing of it."""

import re
import signal
from pathlib import Path

import pytest
from ignite_launch.error_lines import ErrorLines

from tests.ignite_launch.scripts import wait_ready, write_script
from tests.ignite_launch.support import Launch, launch

_LOOK = '''
import subprocess, sys
look = """
import builtins, os, sys
hidden = [name for name in os.environ if "ERROR_FILE" in name and "TORCHELASTIC" not in name]
print(os.environ.get("PYTHONPATH"), builtins.own, hidden, [path for path in sys.path if "startup" in path], flush=True)
"""
exec(look)
subprocess.run([sys.executable, "-c", look])
'''


def test_a_script_and_its_children_see_the_same_python(tmp_path: Path) -> None:
    """PYTHONPATH, the module path and a sitecustomize of the machine are as without the launcher."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "sitecustomize.py").write_text("import builtins; builtins.own = True")
    (tmp_path / "look.py").write_text(_LOOK)
    path = str(tmp_path / "own")
    result = launch(tmp_path, "--strategy", "ddp", "--nproc", "1", "look.py", PYTHONPATH=path)
    assert result.out == f"{path} True [] []\n" * 2, result.err


def test_ctrl_c_is_a_line_a_rank(tmp_path: Path) -> None:
    """An interrupt that a script leaves alone is one line with the places; a script's own excepthook is called.

    The places are the script's, without those of the library that it waits in. In rank 0 torch has wrapped the
    excepthook, as it does for each process group, and the rank is still named once.
    """
    own = "if RANK == 2: sys.excepthook = lambda *_: os.write(2, b'own hook\\n')\n"
    group = "dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)\n"
    group = f"if RANK == 0:\n    import torch.distributed as dist\n    {group}"
    train = "def train():\n    ready()\n    subprocess.run(['sleep', '1000'])\ntrain()\n"
    script = write_script(tmp_path, own, group, train)
    with Launch(tmp_path, "--nproc", "3", script) as running:
        wait_ready(tmp_path, 3)
        running.process.send_signal(signal.SIGINT)
        result = running.result()
    assert result.code == 130
    lines = sorted(line for line in result.err.splitlines() if not line.startswith("ignite-launch"))
    places = "KeyboardInterrupt at script.py:13 > script.py:12"
    assert lines == ["own hook", f"rank 0: {places}", f"rank 1: {places}"]


_HOOK = """
def hook(function, skipped=0):
    try:
        function()
    except Exception as error:
        trace = error.__traceback__
        for _ in range(skipped): trace = trace.tb_next
        sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), trace)
def deep(levels):
    deep(levels - 1) if levels else exec("1 / 0")
import json
hook(lambda: deep(5))
hook(lambda: json.loads("no"), skipped=2)
"""


def test_an_interrupt_is_shown_where_the_users_code_was(tmp_path: Path) -> None:
    """Three places of the user's own files at most, and in none of them the innermost place."""
    result = launch(tmp_path, "--strategy", "ddp", "--nproc", "1", write_script(tmp_path, _HOOK))
    own, library = (line for line in result.err.splitlines() if "KeyboardInterrupt" in line)
    assert own == "rank 0: KeyboardInterrupt at " + " > ".join(["script.py:15"] * 3)
    assert re.fullmatch(r"rank 0: KeyboardInterrupt at decoder\.py:\d+", library)


@pytest.mark.parametrize(
    ("death", "line"),
    [
        ("raise ValueError('a reason\\nand more')", "exited with code 1: ValueError: a reason"),
        ("exec('def (')", "exited with code 1: SyntaxError: invalid syntax"),
        ("sys.exit(3)", "exited with code 3"),
    ],
)
def test_a_failed_run_ends_with_the_failing_ranks_error(tmp_path: Path, death: str, line: str) -> None:
    """The last line names the rank that failed first and its exception, if it was one."""
    script = write_script(tmp_path, f"if RANK == 1: {death}\ntime.sleep(1000)")
    result = launch(tmp_path, "--nproc", "2", script)
    assert result.err.splitlines()[-1].endswith(f") {line}"), result.err
    assert "rank 1 (pid " in result.err.splitlines()[-1]


def test_errors_of_an_earlier_start_are_forgotten() -> None:
    """Of several lines a rank's last one counts, and none after clear()."""
    errors = ErrorLines()
    path = errors.environment["IGNITE_LAUNCH_ERROR_FILE"]
    with open(path, "a") as file:
        file.write("0 KeyError: 1\n1 ValueError: a b\n0 KeyError: 2\n")
    assert [errors.of_rank(rank) for rank in range(3)] == ["KeyError: 2", "ValueError: a b", ""]
    errors.clear()
    assert errors.of_rank(0) == ""
