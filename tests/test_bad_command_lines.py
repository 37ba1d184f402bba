"""Bad input to the commands: each wrong command line gets its exact sentence and exit code 2."""

import os
import shlex
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import ignite_launch.cli
import ignite_launch.preflight
import pytest
from ignite_launch.gpus import Gpu, Inventory
from ignite_launch.plan import LaunchPlan
from matplotlib.backend_bases import FigureCanvasBase

import ignite_tips.plot
from tests.ignite_launch.support import clean_environment, launch

_TABLE = Path(__file__).with_name("bad_input") / "commands.txt"
_NINES = "9" * 5000
_GIB = 2**30


def _gpu(index: int, uuid: str) -> Gpu:
    return Gpu(index, uuid, "NVIDIA L4", 20 * _GIB, 24 * _GIB, 0, mig=uuid.startswith("MIG"))


_MACHINES = {
    "none": Inventory((), "no NVIDIA driver found"),
    "one": Inventory((_gpu(0, "GPU-aa11"),)),
    "two": Inventory((_gpu(0, "GPU-aa11"), _gpu(1, "GPU-ab22"))),
    "sliced": Inventory((_gpu(0, "GPU-aa11"), _gpu(1, "MIG-1111"), _gpu(1, "MIG-2222"))),
}


@dataclass(frozen=True)
class Row:
    """A wrong command line, with machine and variables, and its sentence."""

    machine: str
    variables: dict[str, str]
    program: str
    arguments: list[str]
    sentence: str
    text: str

    def __str__(self) -> str:
        return self.text


def _read_table() -> list[Row]:
    rows: list[Row] = []
    text = ""
    for line in _TABLE.read_text().splitlines():
        if line.startswith("    "):
            before, _, command = text.partition("$ ")
            words = before.split()
            machine = next((word for word in words if word in _MACHINES), "none")
            variables = dict(word.split("=", 1) for word in words if "=" in word)
            program, *arguments = shlex.split(command)
            arguments = [argument.replace("{nines}", _NINES) for argument in arguments]
            rows.append(Row(machine, variables, program, arguments, line.strip(), text))
        elif line and not line.startswith("#"):
            text = line
    return rows


ROWS = _read_table()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder as the table describes it, without variables that a launcher reads."""
    for name in os.environ.keys() - clean_environment().keys():
        monkeypatch.delenv(name)
    for name in ("folder", "taken/rank_0.log", "run"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "s.py").write_text("print('ran')")
    (tmp_path / "file").write_text("")
    (tmp_path / "run" / "events.out.tfevents.1.host").write_bytes(b"no records")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _refuse_to_run(plan: LaunchPlan) -> None:
    raise AssertionError(f"a wrong command line was run: {plan.reason}")


def _call(row: Row, monkeypatch: pytest.MonkeyPatch) -> int | None:
    """Call the command in this process; nothing is launched."""
    if row.program == "ignite_tips.plot":
        with pytest.raises(SystemExit) as caught:
            ignite_tips.plot.main(row.arguments)
        return caught.value.code  # type: ignore[return-value]
    for name, value in row.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ignite_launch.cli, "read_inventory", lambda: _MACHINES[row.machine])
    monkeypatch.setattr(ignite_launch.cli, "run", _refuse_to_run)
    monkeypatch.setattr(
        ignite_launch.preflight, "interface_addresses", lambda: {"lo": "127.0.0.1", "eth0": "192.0.2.2"}
    )
    return ignite_launch.cli.main(row.arguments)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_wrong_command_line_gets_its_sentence(
    row: Row, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2, one line on stderr, nothing on stdout, and no file created or removed."""
    before = sorted(folder.rglob("*"))
    code = _call(row, monkeypatch)
    out, err = capsys.readouterr()
    program = "ignite-launch" if row.program == "ignite-launch" else "python -m ignite_tips.plot"
    formats = ", ".join(sorted(FigureCanvasBase.filetypes))
    sentence = (
        err.replace(str(folder), "{folder}")
        .replace(sys.executable, "{python}")
        .replace(_NINES, "{nines}")
        .replace(formats, "{formats}")
    )
    assert (code, out) == (2, "")
    assert sentence == f"{program}: error: {row.sentence}\n"
    assert sorted(folder.rglob("*")) == before


def test_in_a_folder_that_was_removed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message is one sentence there, too."""
    (folder / "folder" / "gone").mkdir()
    os.chdir(folder / "folder" / "gone")
    (folder / "folder" / "gone").rmdir()
    assert ignite_launch.cli.main(["s.py"]) == 2
    assert capsys.readouterr().err == (
        "ignite-launch: error: there is no script 's.py' in the working folder, which was removed\n"
    )


def test_missing_permissions(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that can't be read and a folder that can't be written to are errors, for users other than root."""
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.R_OK)
    monkeypatch.setattr(ignite_launch.cli, "run", _refuse_to_run)
    assert ignite_launch.cli.main(["--gpus", "none", "--log-dir", "folder", "s.py"]) == 2
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert ignite_launch.cli.main(["s.py"]) == 2
    assert capsys.readouterr().err == (
        "ignite-launch: error: --log-dir must be a folder to write to, got 'folder': Permission denied\n"
        "ignite-launch: error: cannot read the script 's.py': Permission denied\n"
    )


def test_wrong_command_lines_end_a_real_process(folder: Path) -> None:
    """The installed command exits with 2 and one line, too."""
    result = launch(folder, "--nproc", "two", "s.py")
    sentence = "argument --nproc: must be an integer >= 1, got 'two'; see ignite-launch --help"
    assert (result.code, result.out, result.err) == (2, "", f"ignite-launch: error: {sentence}\n")


def test_what_fails_at_the_start_is_a_sentence_after_the_plan(folder: Path) -> None:
    """A log file that is a folder gives exit code 2; a taken port, no fault of the command line, gives 1."""
    result = launch(folder, "--gpus", "none", "--nproc", "2", "--log-dir", "taken", "s.py")
    sentence = "--log-dir taken: cannot write rank_0.log: Is a directory"
    assert (result.code, result.out, result.err.splitlines()[1:]) == (2, "", [f"ignite-launch: error: {sentence}"])
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        nodes = ("--nnodes", "2", "--node-rank", "0", "--rdzv-endpoint", f"127.0.0.1:{port}", "--interface", "lo")
        result = launch(folder, "--gpus", "none", "--nproc", "1", *nodes, "s.py")
    sentence = f"port {port} on 127.0.0.1 is taken (Address already in use); choose another in --rdzv-endpoint"
    assert (result.code, result.out, result.err.splitlines()[1:]) == (1, "", [f"ignite-launch: error: {sentence}"])


def test_no_row_is_there_twice() -> None:
    """Each row is a different command line."""
    assert len(ROWS) >= 100
    assert len({row.text for row in ROWS}) == len(ROWS)
