"""Signals to the launcher: the workers get time to save, and a second signal kills them."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ignite_launch.signals import SignalHandler

from tests.ignite_launch.scripts import SLEEP, STUBBORN, wait_ready, write_script
from tests.ignite_launch.support import Launch, environment, marked_processes, wait_until

_SAVE = """
def save(number, frame):
    pathlib.Path(f"saved{RANK}").write_text(str(number)); sys.exit(3)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.signal(number, save)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_the_workers_save(tmp_path: Path, number: int) -> None:
    """SIGINT, SIGTERM and SIGHUP are passed on once to each worker and determine the exit code."""
    with Launch(tmp_path, "--nproc", "2", write_script(tmp_path, _SAVE, SLEEP)) as running:
        wait_ready(tmp_path)
        running.process.send_signal(number)
        result = running.result()
    assert result.code == 128 + number
    assert [(tmp_path / f"saved{rank}").read_text() for rank in range(2)] == [str(int(number))] * 2
    assert "Traceback" not in result.err


def test_a_signal_within_a_line_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python refuses to print from a signal handler that has interrupted a print; the launch goes on."""

    class Busy:
        def write(self, text: str) -> None:
            raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

        flush = write

    monkeypatch.setattr(sys, "stderr", Busy())
    handler = SignalHandler()
    handler._pass_on(signal.SIGUSR1, None)
    assert handler.received is None


def test_other_signals_are_passed_on(tmp_path: Path) -> None:
    """Each worker gets SIGUSR1 and may go on; what one of them does then is the run's end. Its children get nothing."""
    take = """
def take(number, frame):
    open(f"got{RANK}", "a").write(f"{number} ")
    if number == signal.SIGUSR2: sys.exit(0)
for number in (signal.SIGUSR1, signal.SIGUSR2): signal.signal(number, take)
import subprocess
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
"""
    got = [tmp_path / f"got{rank}" for rank in range(2)]
    with Launch(tmp_path, "--nproc", "2", write_script(tmp_path, take, SLEEP)) as running:
        wait_ready(tmp_path)
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            running.process.send_signal(number)
            wait_until(lambda n=number: f"{n.name} passed on to 2" in (tmp_path / "launch.err").read_text(), "a word")
            # A handler that the next signal interrupts might never write.
            wait_until(lambda n=number: all(f"{n.value} " in _text(file) for file in got), "both workers' handlers")
        result = running.result(30)
    assert result.code == 0, result.err
    assert [_text(file) for file in got] == [f"{signal.SIGUSR1.value} {signal.SIGUSR2.value} "] * 2


def _text(file: Path) -> str:
    return file.read_text() if file.exists() else ""


@pytest.mark.parametrize("times", [1, 2, 3])
def test_stubborn_workers_end_too(tmp_path: Path, times: int) -> None:
    """Workers that ignore Ctrl-C are killed after the grace time, or at the second Ctrl-C."""
    grace = "1" if times == 1 else "1000"
    with Launch(tmp_path, "--nproc", "2", "--grace", grace, write_script(tmp_path, STUBBORN, SLEEP)) as running:
        wait_ready(tmp_path)
        for count in range(times):
            running.process.send_signal(signal.SIGINT)
            # Signals of one kind that are pending together are one: wait until each is taken.
            marker = "a second signal kills them" if count == 0 else "killing the workers now"
            wait_until(lambda marker=marker: marker in (tmp_path / "launch.err").read_text(), "the launcher's word")
        result = running.result(20)
    assert result.code == 130
    assert "Traceback" not in result.err


def test_ctrl_c_in_a_terminal_reaches_each_worker_once(tmp_path: Path) -> None:
    """Ctrl-C in a real terminal ends the run like the signal, and output comes in whole lines."""
    save = "def save(number, frame):\n    open(f'saved{RANK}', 'a').write('x'); sys.exit(3)\n"
    lines = "signal.signal(signal.SIGINT, save)\nprint('a', 'b', RANK, sys.stdout.isatty())\n"
    script = write_script(tmp_path, save, lines, SLEEP)
    terminal = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
    command = [sys.executable, "-c", terminal, sys.executable, "-m", "ignite_launch", "--nproc", "2", script]
    pipe = subprocess.PIPE
    variables = environment(tmp_path)
    with subprocess.Popen(command, cwd=tmp_path, env=variables, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            wait_ready(tmp_path)
            out, _ = process.communicate("\x03", timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    assert {"a b 0 True", "a b 1 True"} < set(out.splitlines())
    assert [(tmp_path / f"saved{rank}").read_text() for rank in range(2)] == ["x", "x"]
    assert marked_processes(tmp_path) == []
