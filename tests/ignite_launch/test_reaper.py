"""No process of a run outlives it."""

import os
import signal
from pathlib import Path

import pytest

from tests.ignite_launch.scripts import SLEEP, STUBBORN, wait_ready, write_script
from tests.ignite_launch.support import Launch, marked_processes, wait_until

_GRANDCHILDREN = """
sleep = ["sleep", "1000"]
subprocess.Popen(sleep)
subprocess.Popen(sleep, start_new_session=True)
subprocess.Popen(sleep, env={})
subprocess.Popen([sys.executable, "-c", "import os, time; os.fork(); time.sleep(1000)"], start_new_session=True)
"""


@pytest.mark.parametrize("victim", ["launcher", "worker", "nobody"])
def test_no_grandchild_lives_on(tmp_path: Path, victim: str) -> None:
    """Workers' children die with the run: in their own session, without an environment, or forked twice."""
    end = "ready()\n" if victim == "nobody" else SLEEP
    with Launch(
        tmp_path, "--nproc", "2", "--grace", "1", write_script(tmp_path, STUBBORN, _GRANDCHILDREN, end)
    ) as running:
        pids = wait_ready(tmp_path)
        children = [pid for pid in marked_processes(tmp_path) if pid not in (*pids, running.process.pid)]
        bare = _bare_sleepers(pids)
        if victim != "nobody":
            assert len(children) >= 6
            assert len(bare) == 2
            os.kill(running.process.pid if victim == "launcher" else pids[1], signal.SIGKILL)
        result = running.result()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in bare), "the end of bare children", 10)
    assert result.code == {"launcher": -9, "worker": 137, "nobody": 0}[victim]


def test_workers_die_with_the_launcher_without_the_reaper_too(tmp_path: Path) -> None:
    """If the reaper process was killed, the kernel still kills the workers of a killed launcher."""
    with Launch(tmp_path, "--nproc", "2", write_script(tmp_path, STUBBORN, SLEEP)) as running:
        wait_ready(tmp_path)
        _kill_reaper(tmp_path)
        running.process.kill()
        running.result()


def test_the_launcher_sweeps_without_the_reaper_too(tmp_path: Path) -> None:
    """If the reaper process was killed, a launcher that ends normally still leaves no child of a worker."""
    wait = "ready()\nwhile not pathlib.Path('go').exists(): time.sleep(0.02)\n"
    with Launch(tmp_path, "--nproc", "2", write_script(tmp_path, _GRANDCHILDREN, wait)) as running:
        wait_ready(tmp_path)
        _kill_reaper(tmp_path)
        (tmp_path / "go").touch()
        assert running.result().code == 0


def test_a_killed_workers_shared_memory_is_removed(tmp_path: Path) -> None:
    """Python's own process that removes shared memory gets the time to do so."""
    share = "from multiprocessing import shared_memory\nmemory = shared_memory.SharedMemory(create=True, size=1000)\n"
    share += "pathlib.Path(f'memory{RANK}').write_text(memory.name)\n"
    with Launch(tmp_path, "--nproc", "2", "--grace", "0", write_script(tmp_path, STUBBORN, share, SLEEP)) as running:
        pids = wait_ready(tmp_path)
        memory = [Path("/dev/shm", (tmp_path / f"memory{rank}").read_text()) for rank in range(2)]
        assert [path.exists() for path in memory] == [True, True]
        os.kill(pids[0], signal.SIGKILL)
        running.result()
    assert [path.exists() for path in memory] == [False, False]


def _kill_reaper(tmp_path: Path) -> None:
    reapers = [
        pid for pid in marked_processes(tmp_path) if b"reaper_process.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert len(reapers) == 1
    os.kill(reapers[0], signal.SIGKILL)
    wait_until(lambda: reapers[0] not in marked_processes(tmp_path), "the reaper's end")


def test_a_launch_within_a_launch_ends_with_it(tmp_path: Path) -> None:
    """Workers of a nested launcher, and their children, end with the outer launcher."""
    inner = "if 'INNER' in os.environ:\n    subprocess.Popen(['sleep', '1000'], start_new_session=True)\n"
    inner += "    ready('inner')\n    while True: time.sleep(1)\n"
    start = (
        "os.environ['INNER'] = '1'\nsubprocess.run([sys.executable, '-m', 'ignite_launch', '--nproc', '2', __file__])"
    )
    with Launch(tmp_path, "--log-dir", "logs", write_script(tmp_path, inner, start)) as running:
        files = [tmp_path / f"readyinner{rank}" for rank in range(2)]
        wait_until(lambda: all(file.exists() for file in files), "the start of the inner workers")
        running.process.kill()
        running.result()


def _bare_sleepers(sessions: list[int]) -> list[int]:
    """Return the processes without an environment in the workers' sessions."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            session = int(Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()[3])
            if session in sessions and not Path(f"/proc/{name}/environ").read_bytes():
                found.append(int(name))
        except OSError:
            continue
    return found
