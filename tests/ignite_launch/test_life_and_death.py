"""How runs end: by themselves, by a signal, by a crash; after each nothing is left."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ignite_launch.support import Launch, environment, launch, marked_processes, wait_until

# Each worker says that it is there by a file, so that the tests wait for what they need and for no time.
_PRELUDE = """
import os, pathlib, signal, subprocess, sys, time
RANK = int(os.environ.get("RANK", 0))
def ready(name=""):
    pathlib.Path(f"ready{name}{RANK}").write_text(str(os.getpid()))
"""
_STUBBORN = "for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.signal(number, signal.SIG_IGN)\n"
_SLEEP = "ready()\nwhile True: time.sleep(1)\n"
_SAVE = """
def save(number, frame):
    pathlib.Path(f"saved{RANK}").write_text(str(number)); sys.exit(3)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.signal(number, save)
"""
_GRANDCHILDREN = """
sleep = ["sleep", "1000"]
subprocess.Popen(sleep)
subprocess.Popen(sleep, start_new_session=True)
subprocess.Popen(sleep, env={})
subprocess.Popen([sys.executable, "-c", "import os, time; os.fork(); time.sleep(1000)"], start_new_session=True)
"""


def _script(tmp_path: Path, *parts: str) -> str:
    (tmp_path / "script.py").write_text("".join((_PRELUDE, *parts)))
    return "script.py"


def _wait_ready(tmp_path: Path, ranks: int = 2) -> list[int]:
    """Return the workers' process ids once each has said that it runs."""
    files = [tmp_path / f"ready{rank}" for rank in range(ranks)]
    wait_until(lambda: all(file.exists() and file.read_text() for file in files), "the start of the workers")
    return [int(file.read_text()) for file in files]


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
    """The launcher ends as its last worker did, with 128 + n for signal n; the others end with it."""
    script = _script(tmp_path, f"if RANK == {int(nproc) - 1}:\n    {death or 'pass'}\nelif {code}: time.sleep(1000)")
    result = launch(tmp_path, "--nproc", nproc, script)
    # A single process is the worker itself: the kernel reports its signal as such.
    assert result.code == (code if code < 128 or nproc == "2" else 128 - code)
    if nproc == "2" and code:
        assert "rank 1 (pid" in result.err
    if "ValueError" in death:
        assert "ValueError: a reason" in result.err


def test_the_first_failure_is_the_cause(tmp_path: Path) -> None:
    """Of two workers that fail within one look of torch's, the code is that of the first, whatever its rank."""
    follow = """
    wait = pathlib.Path("first")
    while not wait.exists(): time.sleep(0.0001)
    stat = pathlib.Path(f"/proc/{wait.read_text()}/stat")
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z": time.sleep(0.0001)
    os._exit(5)
"""
    first = """
    pathlib.Path("pid").write_text(str(os.getpid())); os.rename("pid", "first"); os._exit(17)
"""
    result = launch(tmp_path, "--nproc", "2", _script(tmp_path, f"if RANK == 0:{follow}else:{first}"))
    assert result.code == 17


def test_a_failure_ends_the_others_within_the_grace_time(tmp_path: Path) -> None:
    """Workers that ignore SIGTERM are killed when the grace time is over."""
    script = _script(tmp_path, _STUBBORN, "ready()\nif RANK: sys.exit(9)\ntime.sleep(1000)")
    result = launch(tmp_path, "--nproc", "2", "--grace", "1", script)
    assert result.code == 9
    assert result.seconds < 15


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_the_workers_save(tmp_path: Path, number: int) -> None:
    """SIGINT, SIGTERM and SIGHUP reach each worker once as they are, and the exit code tells of them."""
    with Launch(tmp_path, "--nproc", "2", _script(tmp_path, _SAVE, _SLEEP)) as running:
        _wait_ready(tmp_path)
        running.process.send_signal(number)
        result = running.result()
    assert result.code == 128 + number
    assert [(tmp_path / f"saved{rank}").read_text() for rank in range(2)] == [str(int(number))] * 2
    assert "Traceback" not in result.err


@pytest.mark.parametrize("times", [1, 2, 3])
def test_stubborn_workers_end_too(tmp_path: Path, times: int) -> None:
    """Ctrl-C once ends workers that ignore it after the grace time, twice or more at once."""
    grace = "1" if times == 1 else "1000"
    with Launch(tmp_path, "--nproc", "2", "--grace", grace, _script(tmp_path, _STUBBORN, _SLEEP)) as running:
        _wait_ready(tmp_path)
        for count in range(times):
            running.process.send_signal(signal.SIGINT)
            # Signals of one kind that are pending together are one: wait until each is taken.
            marker = "once more ends them now" if count == 0 else "ending the workers now"
            wait_until(lambda marker=marker: marker in (tmp_path / "launch.err").read_text(), "the launcher's word")
        result = running.result(20)
    assert result.code == 130
    assert "Traceback" not in result.err


@pytest.mark.parametrize("victim", ["launcher", "worker", "nobody"])
def test_no_grandchild_lives_on(tmp_path: Path, victim: str) -> None:
    """Children of workers die with the run, in sessions of their own, without their environment, forked twice."""
    end = "ready()\n" if victim == "nobody" else _SLEEP
    with Launch(tmp_path, "--nproc", "2", "--grace", "1", _script(tmp_path, _STUBBORN, _GRANDCHILDREN, end)) as running:
        pids = _wait_ready(tmp_path)
        children = [pid for pid in marked_processes(tmp_path) if pid not in (*pids, running.process.pid)]
        bare = _bare_sleepers(pids)
        if victim != "nobody":
            assert len(children) >= 6
            assert len(bare) == 2
            os.kill(running.process.pid if victim == "launcher" else pids[1], signal.SIGKILL)
        result = running.result()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in bare), "the end of bare children", 10)
    assert result.code == {"launcher": -9, "worker": 137, "nobody": 0}[victim]


def test_workers_die_with_the_launcher_without_the_watchdog_too(tmp_path: Path) -> None:
    """When somebody has killed the watchdog, the kernel still ends the workers of a launcher that is killed."""
    with Launch(tmp_path, "--nproc", "2", _script(tmp_path, _STUBBORN, _SLEEP)) as running:
        _wait_ready(tmp_path)
        watchdogs = [
            pid for pid in marked_processes(tmp_path) if b"watchdog.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        assert len(watchdogs) == 1
        os.kill(watchdogs[0], signal.SIGKILL)
        wait_until(lambda: watchdogs[0] not in marked_processes(tmp_path), "the watchdog's end")
        running.process.kill()
        running.result()


def test_a_launch_within_a_launch_ends_with_it(tmp_path: Path) -> None:
    """Workers of an inner launcher, and their children, belong to the outer one's run, too."""
    inner = "if 'INNER' in os.environ:\n    subprocess.Popen(['sleep', '1000'], start_new_session=True)\n"
    inner += "    ready('inner')\n    while True: time.sleep(1)\n"
    start = (
        "os.environ['INNER'] = '1'\nsubprocess.run([sys.executable, '-m', 'ignite_launch', '--nproc', '2', __file__])"
    )
    with Launch(tmp_path, "--log-dir", "logs", _script(tmp_path, inner, start)) as running:
        files = [tmp_path / f"readyinner{rank}" for rank in range(2)]
        wait_until(lambda: all(file.exists() for file in files), "the start of the inner workers")
        running.process.kill()
        running.result()


def test_ctrl_c_in_a_terminal_reaches_each_worker_once(tmp_path: Path) -> None:
    """The key, pressed in a real terminal, ends the run as the signal does; lines come whole."""
    save = "def save(number, frame):\n    open(f'saved{RANK}', 'a').write('x'); sys.exit(3)\n"
    lines = "signal.signal(signal.SIGINT, save)\nprint('a', 'b', RANK, sys.stdout.isatty())\n"
    script = _script(tmp_path, save, lines, _SLEEP)
    terminal = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
    command = [sys.executable, "-c", terminal, sys.executable, "-m", "ignite_launch", "--nproc", "2", script]
    pipe = subprocess.PIPE
    variables = environment(tmp_path)
    with subprocess.Popen(command, cwd=tmp_path, env=variables, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            _wait_ready(tmp_path)
            out, _ = process.communicate("\x03", timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    assert {"a b 0 True", "a b 1 True"} < set(out.splitlines())
    assert [(tmp_path / f"saved{rank}").read_text() for rank in range(2)] == ["x", "x"]
    assert marked_processes(tmp_path) == []


def _bare_sleepers(sessions: list[int]) -> list[int]:
    """Return the processes without an environment in the workers' sessions."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            session = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[3])
            if session in sessions and not Path(f"/proc/{name}/environ").read_bytes():
                found.append(int(name))
        except OSError:
            continue
    return found
