"""Kill the demo many times and print the results; exit with 1 if anything is wrong."""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.e2e.soak.driver import Soak

_TOO_MANY = 10  # stop after so many failures


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.soak", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=8, help="of each run of the demo")
    arguments = parser.parse_args()
    if shutil.which("cc") is None:
        parser.error("needs a C compiler, cc: the code that stops a run within a write is in C")
    print(f"{arguments.kills} kills, seed {arguments.seed}, runs of {arguments.epochs} epochs", flush=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder), arguments.seed, epochs=arguments.epochs)
        while soak.counts["kills"] < arguments.kills and len(soak.failures) < _TOO_MANY:
            line = soak.kill_once()
            print(f"{soak.counts['kills']:4d}  {line}", flush=True)
        print(f"      {soak.finish()}")
    print(f"\n{'kills and their results':<68} | number\n{'-' * 68} | ------")
    for name in sorted(soak.counts):
        print(f"{name:<68} | {soak.counts[name]:6d}")
    print(f"{'failures':<68} | {len(soak.failures):6d}")
    print(f"\nafter a kill the last process was gone within {soak.longest_end:.1f} s;", end=" ")
    print(f"{time.monotonic() - started:.0f} s in all")
    for failure in soak.failures:
        print(f"\nFAILED (seed {arguments.seed}): {failure}")
    return 1 if soak.failures else 0


if __name__ == "__main__":
    sys.exit(main())
