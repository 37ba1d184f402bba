"""Run one benchmark and write its tables to a file: ``python -m benchmarks.worker NAME FILE [--quick]``.

Each benchmark has a process of its own, so that none finds what another left behind.
"""

import importlib
import sys
from pathlib import Path

from benchmarks.tables import dumps


def main(name: str, file: str, *options: str) -> None:
    tables = importlib.import_module(f"benchmarks.{name}").measure(quick="--quick" in options)
    Path(file).write_text(dumps(tables))


if __name__ == "__main__":
    main(*sys.argv[1:])
