"""The command: wrong usage, and arguments passed on unchanged."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ignite_launch.support import Launch, environment, launch

_ECHO = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))"


@pytest.fixture
def echo(tmp_path: Path) -> str:
    (tmp_path / "echo me.py").write_text(_ECHO)
    return "echo me.py"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["missing.py"], "there is no script 'missing.py'"),
        (["--gpus", "0,0", "echo me.py"], "--gpus 0,0: there is no GPU 0; no GPU is available: "),
        (["--gpus", "x", "echo me.py"], "--gpus x: 'x' is not a GPU number"),
        (["--gpus", "7", "echo me.py"], "--gpus 7: there is no GPU 7"),
        (["--nproc", "0", "echo me.py"], "argument --nproc: must be an integer >= 1, got '0'"),
        (["--nproc", "two", "echo me.py"], "argument --nproc: must be an integer >= 1, got 'two'"),
        (["--strategy", "fsdp", "echo me.py"], "argument --strategy: must be auto, single, dp or ddp, got 'fsdp'"),
        (["--strategy", "dp", "echo me.py"], "--strategy dp needs at least two GPUs"),
        (["--grace", "-1", "echo me.py"], "argument --grace: must be a number of seconds >= 0, got '-1'"),
        (["--nnodes", "3:2", "echo me.py"], "argument --nnodes: must be N or MIN:MAX with 1 <= MIN <= MAX, got '3:2'"),
        (["--frobnicate", "echo me.py"], "there is no option --frobnicate"),
        (["--gpus"], "argument --gpus: expected one argument"),
        ([], "name a script, or a module with -m"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(tmp_path: Path, echo: str, arguments: list, sentence: str) -> None:
    """Wrong usage ends with exit code 2, one line on stderr and no traceback."""
    result = launch(tmp_path, *arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("ignite-launch: error: ")
    assert sentence in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("nproc", ["1", "2"])
def test_arguments_pass_through_untouched(tmp_path: Path, echo: str, nproc: str) -> None:
    """Spaces, quotes, templates, the launcher's own options and invalid UTF-8 reach the script as typed."""
    arguments = ["--nproc", "3", "--", "-m", "", "a b", "'", '"', "$HOME", "$$", "${local_rank}", "é", "-h", "\udcff"]
    result = launch(tmp_path, "--nproc", nproc, echo, *arguments)
    assert result.code == 0
    for line in result.out.splitlines():
        assert json.loads(line)[0] == arguments


def test_a_module_runs_as_python_runs_it(tmp_path: Path) -> None:
    """-m runs a module of a package in the working folder, with its arguments."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "tool.py").write_text("import sys; print(__package__, sys.argv[1:])")
    for options in ([], ["--nproc", "2"]):
        result = launch(tmp_path, *options, "-m", "package.tool", "-m", "x")
        assert set(result.out.splitlines()) == {"package ['-m', 'x']"}


def test_a_single_process_is_the_launcher_itself(tmp_path: Path) -> None:
    """One process replaces the launcher: its id, parent and output are those of plain python."""
    (tmp_path / "me.py").write_text("import os, sys; print(os.getpid(), os.getppid(), *sys.orig_argv[1:])")
    with Launch(tmp_path, "me.py") as running:
        result = running.result()
        assert result.out.split() == [str(running.process.pid), str(os.getpid()), "me.py"]


def test_one_process_costs_no_import_of_torch(tmp_path: Path) -> None:
    """Nothing imports torch before the script's first line."""
    (tmp_path / "me.py").write_text("print('ran')")
    (tmp_path / "no").mkdir()
    (tmp_path / "no" / "torch.py").write_text("raise ImportError('the launcher imports torch')")
    assert launch(tmp_path, "me.py", PYTHONPATH=str(tmp_path / "no")).out == "ran\n"


def test_a_script_with_a_syntax_error_is_left_to_python(tmp_path: Path) -> None:
    """Python's own message and exit code come through, from each process."""
    (tmp_path / "bad.py").write_text("def (:")
    for nproc in ("1", "2"):
        result = launch(tmp_path, "--nproc", nproc, "bad.py")
        assert result.code == 1
        assert "SyntaxError" in result.err


def test_a_missing_module_is_left_to_python(tmp_path: Path) -> None:
    """A missing module fails as under python -m."""
    result = launch(tmp_path, "-m", "no.such.module")
    assert result.code == 1
    assert "No module named 'no'" in result.err or "No module named no" in result.err


def test_closed_streams_are_no_error(tmp_path: Path) -> None:
    """Without any of the standard streams, as under some daemons, the exit code is the worker's."""
    wait = "open(os.environ['RANK'], 'w')\nwhile not os.path.exists('0') & os.path.exists('1'): time.sleep(0.01)\n"
    (tmp_path / "main.py").write_text(f"import os, sys, time\n{wait}print('heard')\nsys.exit(3)")
    command = 'exec "$0" -m ignite_launch --nproc 2 main.py <&- >&- 2>&-'
    done = subprocess.run(["bash", "-c", command, sys.executable], cwd=tmp_path, env=environment(tmp_path), timeout=60)
    assert done.returncode == 3


@pytest.mark.parametrize("arguments", [["--help"], ["--dry-run", "main.py"]])
def test_a_reader_that_has_gone_is_no_traceback(tmp_path: Path, arguments: list[str]) -> None:
    """As in `ignite-launch --help | head -1`: the exit code of a process that SIGPIPE ended, and no error."""
    (tmp_path / "main.py").write_text("")
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "ignite_launch", *arguments]
    done = subprocess.run(command, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writer)
    assert done.returncode == 141
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_one_process_in_an_allocation_of_several_tasks_is_alone(tmp_path: Path) -> None:
    """Ignite reads SLURM's numbers first, and would wait for the other tasks."""
    names = ["SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS"]
    (tmp_path / "main.py").write_text(f"import os; print(*[os.environ[name] for name in {names}])")
    task = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NTASKS": "2"}
    result = launch(tmp_path, "main.py", SLURM_JOB_NODELIST="localhost", SLURM_JOB_NUM_NODES="1", **task)
    assert (result.code, result.out) == (0, "0 0 1\n"), result.err
