"""Train every cell of the table, and write the table into a page between two markers."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.e2e.parallel.cells import CLIPS, WAYS, Cell, failures, tolerance, train_cells
from tests.e2e.parallel.collectives import Counts, count_all
from tests.strategies import STRATEGIES
from tests.support import run_distributed

BEGIN, END = "<!-- written by make combinations -->", "<!-- end -->"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.parallel", description=__doc__)
    parser.add_argument("page", type=Path, help="the file with the markers")
    page: Path = parser.parse_args().page
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    started = time.monotonic()
    cells: list[Cell] = [(strategy, clipper) for strategy in STRATEGIES for clipper in CLIPS]
    with tempfile.TemporaryDirectory() as folder:
        trained = train_cells(cells, [[way] for way in WAYS], Path(folder))
        wrong = {cell: failures(cell, trained[cell], Path(folder)) for cell in cells}
    counts: dict[str, Counts] = {}
    for ranks in (2, 4):
        counts |= run_distributed(count_all, ranks)[0]
    rows = [_row(strategy, wrong, counts[strategy]) for strategy in STRATEGIES]
    page.write_text(f"{before}{BEGIN}\n\n{_HEAD}\n{chr(10).join(rows)}\n\n{END}{after}")
    print(f"{len(cells)} cells, each trained uninterrupted and resumed, in {time.monotonic() - started:.0f} s")
    for line in (line for lines in wrong.values() for line in lines):
        print(f"FAILED: {line}")
    return int(any(wrong.values()))


_COLUMNS = ["strategy", *CLIPS, "from files", "from DCP", "torch", '"propagate"', '"raise"']
_HEAD = f"| {' | '.join(_COLUMNS)} |\n|{' --- |' * len(_COLUMNS)}"


def _row(strategy: str, wrong: dict[Cell, list[str]], counts: Counts) -> str:
    allowed = f"{tolerance(strategy):.0e}".replace("e-0", "e-")
    clips = ["FAILED" if wrong[strategy, clipper] else allowed for clipper in CLIPS]
    resumed = ["equal", "torch has none" if strategy.startswith("ZeRO") else "equal"]
    collectives = [
        "refuses" if counts["torch"] is None else counts["torch"],
        *(counts[f"norm, {mode}"] for mode in ("propagate", "raise")),
    ]
    return f"| {' | '.join(map(str, [strategy, *clips, *resumed, *collectives]))} |"


if __name__ == "__main__":
    sys.exit(main())
