"""Run everything that needs a GPU, and write the results to benchmarks/RESULTS-GPU.md: ``make gpu``.

python -m tools.gpu                    on the machine's GPU; without one an error and exit code 3
python -m tools.gpu --wheels FOLDER    first installs the folder's wheels and this project, without a network, in
                                       addition to this Python's packages
python -m tools.gpu --dry-run          without a GPU: tests on a substitute, a few rounds of benchmarks; writes to
build/ python -m tools.gpu --check            only checks for a GPU

The report is rewritten after each stage: if a later stage is cut off, earlier results are kept. Until it runs the
stages, this file needs only the standard library.
"""

import argparse
import ctypes
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "gpu"
SITE = BUILD / "site"
REPORT = ROOT / "benchmarks" / "RESULTS-GPU.md"
NO_GPU = 3
LIMIT = 470.0  # seconds for all stages; writing the report takes little
PACKAGES = ("torch", "pytorch-ignite", "lightning", "accelerate")
DEVICE_TESTS = (
    "tests/gpu",
    "tests/ignite_tips/clipping/test_device.py",
    "tests/ignite_tips/test_distributed.py",
)


@dataclass(frozen=True)
class Stage:
    """One part of the run: a title, what to run, and its time limit in seconds."""

    title: str
    name: str
    seconds: float
    tests: tuple[str, ...] = ()
    quick: bool = False

    @property
    def log(self) -> Path:
        """The stage's full output."""
        return BUILD / f"{self.name}.log"

    @property
    def tables(self) -> Path:
        """The tables that a benchmark writes."""
        return BUILD / f"{self.name}.json"

    def command(self, dry_run: bool) -> list[str]:
        """Return the command to run."""
        if not self.tests:
            quick = ["--quick"] if dry_run or self.quick else []
            return [sys.executable, "-m", "benchmarks.worker", self.name, str(self.tables), *quick]
        # pytest-benchmark, if installed, warns about tests that run in parallel.
        parallel = ["-n", str(min(14, os.cpu_count() or 1)), "-p", "no:benchmark"] if find_spec("xdist") else []
        return [sys.executable, "-m", "pytest", "--gpu", "-v", "-rfE", "--tb=short", *parallel, *self.tests]


STAGES = (
    # First, because the GPU is free only while no other stage uses it.
    Stage("The launcher takes a free GPU", "free", 60, ("tests/gpu/test_launcher.py", "-k", "free:1")),
    Stage("Training", "gpu.training", 200),
    Stage("Tests", "tests", 170, (*DEVICE_TESTS, "-k", "(gpu or device or nccl) and not free:1")),
    Stage("Clipping", "gpu.clipping", 80),
    Stage("Waits for the device", "gpu.waits", 40),
    Stage("Logging learning rates", "lr_logging", 110, quick=True),
)


@dataclass
class Report:
    """The report: the machine, and one section per stage."""

    machine: str
    sections: list[str] = field(default_factory=list)

    def write(self, file: Path) -> None:
        """Write all sections so far."""
        opening = (
            "# Results on a GPU\n\nWritten by `make gpu`. Ratios compare loops that ran in turn, in one process; a "
            "figure with two more in parentheses is a median with its quartiles."
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n\n".join([opening, self.machine, *self.sections]) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 0 if all stages finished and all tests passed, 3 without a GPU, otherwise 1."""
    parser = argparse.ArgumentParser(prog="python -m tools.gpu", description="Run everything that needs a GPU.")
    parser.add_argument("--wheels", metavar="FOLDER", help="install these wheels and this project, without a network")
    parser.add_argument("--dry-run", action="store_true", help="run everything without a GPU, to check that it runs")
    parser.add_argument("--check", action="store_true", help="only check for a GPU")
    parser.add_argument("--stages", nargs="+", choices=[stage.name for stage in STAGES], help="run only these stages")
    options = parser.parse_args(arguments)
    if not options.dry_run and gpu_count() == 0:
        print("make gpu needs an NVIDIA GPU with its driver, but this machine has none.", file=sys.stderr)
        return NO_GPU
    if options.check:
        return 0
    BUILD.mkdir(parents=True, exist_ok=True)
    if options.wheels is not None:
        install(Path(options.wheels))
    return run(options.dry_run, [stage for stage in STAGES if stage.name in (options.stages or stage.name)])


def gpu_count() -> int:
    """Return how many GPUs the CUDA driver has; 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    return count.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


def install(wheels: Path) -> None:
    """Install wheels and this project into a separate folder, in addition to this Python's packages."""
    found = sorted(str(path) for path in wheels.glob("*.whl"))
    if not found:
        raise SystemExit(f"WHEELS must be a folder with wheels, got {wheels}, which has none")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--upgrade", "--target", str(SITE)]
    subprocess.run([*pip, *found], check=True)
    subprocess.run([*pip, "--no-build-isolation", str(ROOT)], check=True)


def run(dry_run: bool, stages: Sequence[Stage]) -> int:
    """Run the stages; return 1 if one of them failed."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if SITE.exists():
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(SITE), environment.get("PYTHONPATH")]))
        sys.path.insert(0, str(SITE))
    if dry_run:
        environment["IGNITE_TIPS_DRY_RUN"] = "1"
    report, target = Report(machine()), BUILD / "RESULTS-GPU.md" if dry_run else REPORT
    deadline, failed = time.monotonic() + (10 * LIMIT if dry_run else LIMIT), False
    for stage in stages:
        started = time.monotonic()
        limit = deadline - started if dry_run else min(stage.seconds, deadline - started)
        ended = carry_out(stage, environment, limit, dry_run)
        taken = time.monotonic() - started
        text, good = section(stage, ended)
        failed = failed or not good
        report.sections.append(f"## {stage.title}\n\n{text}\n\nTook {taken:.0f} s.")
        report.write(target)
        print(f"{stage.title}: {'ok' if good else 'FAILED'}, {taken:.0f} s", flush=True)
    print(f"results are in {target.relative_to(ROOT)}, full outputs in {BUILD.relative_to(ROOT)}/")
    return int(failed)


def carry_out(stage: Stage, environment: dict[str, str], limit: float, dry_run: bool) -> str:
    """Run one stage; return why it ended early, or an empty string."""
    stage.tables.unlink(missing_ok=True)
    if limit <= 0:
        return "not started: no time left"
    with open(stage.log, "w") as log:
        try:
            command = stage.command(dry_run)
            code = subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=log, timeout=limit).returncode
        except subprocess.TimeoutExpired:
            return f"cut off after {limit:.0f} s"
    return "" if code == 0 else f"exit code {code}"


def section(stage: Stage, ended: str) -> tuple[str, bool]:
    """Return a stage's section of the report, and whether all went well."""
    parts = [f"**Ended early: {ended}.**"] if ended else []
    if stage.tests and stage.log.exists():
        parts += count_tests(stage.log.read_text(errors="replace"))
    elif stage.tables.exists():
        from benchmarks.tables import loads

        parts += [table.markdown() for table in loads(stage.tables.read_text()) if table.rows]
    return "\n\n".join(parts), not ended


def count_tests(log: str) -> list[str]:
    """Return the number of tests in pytest's verbose output, and a line for each failure."""
    ends = [match.group(1) for line in log.splitlines() if "::" in line and (match := _END.search(line))]
    counts = ", ".join(f"{ends.count(end)} {end.lower()}" for end in ("PASSED", "FAILED", "SKIPPED", "ERROR"))
    failures = re.findall(r"^(?:FAILED|ERROR) (\S+::.+)", log, re.MULTILINE)
    return [f"{counts}.", *(["\n".join(f"- {failure[:300]}" for failure in failures)] if failures else [])]


_END = re.compile(r"(?:^\[gw\d+\].*?| )(PASSED|FAILED|SKIPPED|ERROR) ")


def machine() -> str:
    """Return the date, the card with its driver, and the versions."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        card = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]
        name, driver, memory = (part.strip() for part in card.split(","))
        card = f"{name} ({memory}), driver {driver}"
    except (OSError, subprocess.CalledProcessError, IndexError, ValueError):
        card = "no GPU (a dry run)"
    versions = ", ".join(f"{package} {installed(package)}" for package in PACKAGES)
    return f"{date.today()}, {card}, {os.cpu_count()} CPU cores, Python {platform.python_version()}, {versions}."


def installed(package: str) -> str:
    """Return the version of a package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


if __name__ == "__main__":
    sys.exit(main())
