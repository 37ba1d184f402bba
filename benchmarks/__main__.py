"""Run the benchmarks, each in a process of its own, and keep what they print in benchmarks/RESULTS.md.

python -m benchmarks                 all of them, and write RESULTS.md
python -m benchmarks clipping ...    only these, and write nothing
"""

import platform
import subprocess
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch

FOLDER = Path(__file__).parent
NO_BENCHMARKS = {"__init__", "__main__", "timing"}


def main(chosen: list[str]) -> int:
    known = sorted({path.stem for path in FOLDER.glob("*.py")} - NO_BENCHMARKS)
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        print(f"there is no benchmark {', '.join(unknown)}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    sections = [_describe_machine()]
    for name in chosen or known:
        print(f"running {name}", file=sys.stderr, flush=True)
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], stdout=subprocess.PIPE, text=True)
        if done.returncode != 0:
            return done.returncode
        print(done.stdout, flush=True)
        sections.append(f"## {name}\n\n{done.stdout.strip()}\n")
    if not chosen:
        (FOLDER / "RESULTS.md").write_text("\n".join(sections))
    return 0


def _describe_machine() -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        "# Benchmark results\n\n"
        "Written by `make bench`. Each table compares its rows within one run, in alternation; ratios carry over to "
        "other machines, microseconds do not.\n\n"
        f"{date.today()}, {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {device}, "
        f"Python {platform.python_version()}, torch {torch.__version__}, Ignite {version('pytorch-ignite')}.\n"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
