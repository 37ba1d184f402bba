"""``python -m ignite_tips.plot RUN... -o runs.png``: draw runs as a picture, without a server."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ignite_tips.tensorboard.run_plot import plot_runs
from ignite_tips.tensorboard.run_reader import find_runs

__all__ = ["main"]

_PROGRAM = "python -m ignite_tips.plot"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{_PROGRAM}: error: {message}; see {_PROGRAM} --help\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw runs as a picture; an error is one sentence and exit code 2."""
    parser = _Parser(prog=_PROGRAM, description="Draw runs without a server.", allow_abbrev=False)
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="the folder of a run's TensorBoard files, or one with runs below it"
    )
    parser.add_argument("-o", "--output", default="runs.png", help="the picture; its suffix sets the format")
    parser.add_argument("--title", help="title above the picture")
    options = parser.parse_args(arguments)
    try:
        _check_output(options.output)
        runs = [run for folder in options.runs for run in find_runs(folder)]
        figure = plot_runs(runs, title=options.title)
        figure.savefig(options.output)
    except (ValueError, OSError, ImportError) as error:
        parser.exit(2, f"{_PROGRAM}: error: {' '.join(str(error).split())}\n")
    print(f"wrote {options.output}, with {len(runs)} run{'s' * (len(runs) > 1)}")


def _check_output(output: str) -> None:
    """Raise ValueError if no picture can be written there, before the runs are read, which may take a while."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError:  # plot_runs says what to install
        return
    path, endings = Path(output), sorted(FigureCanvasBase.filetypes)
    if path.suffix.lower().removeprefix(".") not in endings:
        raise ValueError(f"--output must end in one of {', '.join(endings)}, got {output!r}")
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"--output must be a file in an existing folder, got {output!r}")


if __name__ == "__main__":
    main()
