"""Run the tests five times, with other seeds, kernels, threads and orders, and without write access.

python -m tools.shaken [--seeds 1 2 ...] [paths]

Each run has its own seed, which also sets the order of the tests. It uses AVX2 or no vector instructions, and one
thread or two. Its user is not root and cannot write to the home and working folders, under LANG=C. It prints a line per
run, and the tests that failed; the full output is in build/shaken/.
"""

import argparse
import os
import pwd
import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "build" / "shaken"


@dataclass(frozen=True)
class Run:
    """The settings of a run; ``capability`` sets which kernels torch chooses."""

    seed: int
    capability: str
    threads: int

    def __str__(self) -> str:
        return f"seed {self.seed}, {self.capability:7}, threads {self.threads}"


RUNS = (Run(1, "avx2", 1), Run(2, "default", 2), Run(3, "avx2", 2), Run(4, "default", 1), Run(5, "avx2", 2))


def main() -> int:
    """Make all runs; return 1 if a test failed in any of them."""
    parser = argparse.ArgumentParser(
        prog="tools.shaken", description="Run the tests with other seeds, orders and rights."
    )
    parser.add_argument(
        "paths", nargs="*", default=["ignite_tips", "launch", "tests"], help="what to run; by default everything"
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        choices=[run.seed for run in RUNS],
        default=[run.seed for run in RUNS],
        help="make only the runs with these seeds",
    )
    arguments = parser.parse_args()
    user = _unprivileged()
    if problem := _cannot_run(user):
        print(f"tools.shaken: error: {problem}", file=sys.stderr)
        return 2
    OUTPUT.mkdir(parents=True, exist_ok=True)
    print(f"as {user.pw_name}, in {os.environ.get('JOBS', '3')} processes at once", flush=True)
    return max([_make(run, user, arguments.paths) for run in RUNS if run.seed in arguments.seeds])


def _unprivileged() -> pwd.struct_passwd:
    """Return this user, or for root a user without rights."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())


def _identity(user: pwd.struct_passwd) -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _cannot_run(user: pwd.struct_passwd) -> str | None:
    """Return why ``user`` cannot run the tests, or None."""
    look = f"import os, pathlib, sys; assert os.access({str(ROOT / 'conftest.py')!r}, os.R_OK)\n"
    look += "assert sys.base_prefix == sys.argv[1], sys.base_prefix"
    try:
        done = subprocess.run(
            [sys.executable, "-c", look, sys.base_prefix], cwd="/", capture_output=True, **_identity(user)
        )
    except PermissionError:
        done = None
    if done is not None and done.returncode == 0:
        return None
    return f"{user.pw_name} must be able to read {ROOT} and Python's {sys.base_prefix}; clone and install elsewhere"


def _make(run: Run, user: pwd.struct_passwd, paths: list[str]) -> int:
    """Make a run; print its result in a line, and the tests that failed."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    log = OUTPUT / f"seed_{run.seed}.txt"
    with tempfile.TemporaryDirectory(prefix="shaken") as name:
        folders = _folders(Path(name), user)
        with open(log, "w") as output:
            code = subprocess.run(
                _command(run, paths),
                cwd=folders["work"],
                env=_environment(run, user, folders),
                stdout=output,
                stderr=subprocess.STDOUT,
                **_identity(user),
            ).returncode
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = log.read_text().splitlines()
    elsewhere = re.compile(rf"(\.\./)+{re.escape(str(ROOT)[1:])}/")  # relative to the working folder
    failed = [elsewhere.sub("", line) for line in lines if re.match(r"(FAILED|ERROR) ", line)]
    counted = [found[0] for line in lines if (found := re.search(r"\d+ \w+.*(?= in \d[\d.]*s)", line))]
    counts = counted[-1] if counted else f"it did not finish: {lines[-1:]}"
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{run}: {counts}; {time.monotonic() - began:.0f} s, of the CPUs {cpu:.0f} s, exit code {code}", flush=True)
    for line in failed:
        print(f"    {line}", flush=True)
    return int(code != 0)


def _folders(above: Path, user: pwd.struct_passwd) -> dict[str, Path]:
    """Create the folders of a run; only the one for temporary files is writable."""
    above.chmod(0o755)
    folders = {name: above / name for name in ("home", "work", "tmp")}
    for name, folder in folders.items():
        folder.mkdir()
        folder.chmod(0o700 if name == "tmp" else 0o555)
    if os.geteuid() == 0:
        os.chown(folders["tmp"], user.pw_uid, user.pw_gid)
    return folders


def _environment(run: Run, user: pwd.struct_passwd, folders: dict[str, Path]) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "XDG_"))}
    kept |= {"HOME": str(folders["home"]), "TMPDIR": str(folders["tmp"]), "LANG": "C", "LC_ALL": "C"}
    return kept | {"USER": user.pw_name, "LOGNAME": user.pw_name, "ATEN_CPU_CAPABILITY": run.capability}


def _command(run: Run, paths: list[str]) -> list[str]:
    command = [sys.executable, "-m", "pytest", "--config-file", str(ROOT / "setup.cfg"), "--rootdir", str(ROOT), "-q"]
    command += ["--numprocesses", os.environ.get("JOBS", "3"), "--dist", "worksteal"]
    command += ["--seed", str(run.seed), "--threads", str(run.threads)]
    command += ["--random-order", f"--random-order-seed={run.seed}"]
    return command + [str(ROOT / path) for path in paths]


if __name__ == "__main__":
    sys.exit(main())
