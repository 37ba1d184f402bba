"""Worker scripts that say when they are ready, for tests that wait for an event and never for time."""

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
    """Write the parts, after a few imports and definitions, into a script; return its name."""
    (tmp_path / "script.py").write_text("".join((_PRELUDE, *parts)))
    return "script.py"


def wait_ready(tmp_path: Path, ranks: int = 2) -> list[int]:
    """Return the workers' process ids once each has said that it runs."""
    files = [tmp_path / f"ready{rank}" for rank in range(ranks)]
    wait_until(lambda: all(file.exists() and file.read_text() for file in files), "the start of the workers")
    return [int(file.read_text()) for file in files]
