"""Run one benchmark and write its tables to a file: ``python -m benchmarks.worker NAME FILE [--quick]``.

Each benchmark has its own process, so none is affected by what another left behind. If a benchmark yields its tables
while they grow, they are written each time: if it is cut off, something is left.
"""

import importlib
import sys
from inspect import isgenerator
from pathlib import Path

from benchmarks.tables import dumps


def main(name: str, file: str, *options: str) -> None:
    measured = importlib.import_module(f"benchmarks.{name}").measure(quick="--quick" in options)
    for tables in measured if isgenerator(measured) else [measured]:
        unfinished = Path(file + ".new")
        unfinished.write_text(dumps(tables))
        unfinished.rename(file)


if __name__ == "__main__":
    main(*sys.argv[1:])
