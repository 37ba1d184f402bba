"""Worker scripts that report when they are ready, so tests can wait for an event instead of a time."""

from pathlib import Path

from tests.ignite_launch.support import wait_until

__all__ = ["SLEEP", "STUBBORN", "wait_ready", "write_script"]

_PRELUDE = """
import os, pathlib, signal, subprocess, sys, time
RANK = int(os.environ.get("RANK", 0))
def ready(name=""):
    pathlib.Path(f"ready{name}{RANK}").write_text(str(os.getpid()))
"""
STUBBORN = "for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.signal(number, signal.SIG_IGN)\n"
SLEEP = "ready()\nwhile True: time.sleep(1)\n"


def write_script(tmp_path: Path, *parts: str) -> str:
    """Write a script of common imports followed by the parts; return its name."""
    (tmp_path / "script.py").write_text("".join((_PRELUDE, *parts)))
    return "script.py"


def wait_ready(tmp_path: Path, ranks: int = 2) -> list[int]:
    """Wait until each worker is ready and return their process ids."""
    files = [tmp_path / f"ready{rank}" for rank in range(ranks)]
    wait_until(lambda: all(file.exists() and file.read_text() for file in files), "the start of the workers")
    return [int(file.read_text()) for file in files]
