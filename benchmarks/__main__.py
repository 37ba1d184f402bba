"""Run the benchmarks, each in its own process, and save the results in benchmarks/: RESULTS.md and its picture.

python -m benchmarks                 all of them; writes RESULTS.md, its pictures and results.json, which has the data
python -m benchmarks clipping ...    only these; writes nothing
python -m benchmarks --quick ...     a few rounds of each, to check that they run; writes nothing
"""

import argparse
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.heartbeats_picture import draw_heartbeats
from benchmarks.picture import draw
from benchmarks.report import Results, report
from benchmarks.tables import Table, dumps, loads

FOLDER = Path(__file__).parent
# The order in the report.
BENCHMARKS = (
    "training",
    "clipping",
    "scheduling",
    "ignite_schedulers",
    "lr_logging",
    "freezing",
    "summaries",
    "launch",
    "heartbeats",
    "parallel",
    "import_time",
    "growth",
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Run the benchmarks.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="a few rounds of each, to check that they run")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are: {', '.join(BENCHMARKS)}")
    results: Results = {}
    for name in options.names or BENCHMARKS:
        started = time.monotonic()
        results[name] = run(name, quick=options.quick)
        print(f"## {name}\n\n" + "\n\n".join(table.markdown() for table in results[name]), "\n", flush=True)
        print(f"{name} took {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    if not options.names and not options.quick:
        write(results, _machine(), FOLDER)


def run(name: str, *, quick: bool = False) -> list[Table]:
    """Return the tables of one benchmark, measured in its own process."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "tables.json")
        command = [sys.executable, "-m", "benchmarks.worker", name, str(file), *(["--quick"] if quick else [])]
        # Drop what the peers print.
        subprocess.run(command, check=True, stdout=sys.stderr, cwd=FOLDER.parent)
        tables: list[Table] = loads(file.read_text())
    return tables


def write(results: Results, machine: str, folder: Path) -> None:
    """Write the data, the report and the pictures."""
    (folder / "results.json").write_text(dumps({"machine": machine, "benchmarks": results}))
    (folder / "RESULTS.md").write_text(report(results, machine))
    figures = draw(results, machine)
    for table in results.get("heartbeats", []):
        figures["heartbeats"] = draw_heartbeats(table)
    for name, figure in figures.items():
        figure.savefig(folder / f"results-{name}.png", dpi=150)


def _machine() -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{date.today()}, {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {device}, "
        f"Python {platform.python_version()}, torch {torch.__version__}, Ignite {version('pytorch-ignite')}, "
        f"Lightning {version('lightning')}, Accelerate {version('accelerate')}"
    )


if __name__ == "__main__":
    main()
