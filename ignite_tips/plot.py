"""``python -m ignite_tips.plot RUN... -o runs.png``: draw runs into a picture, without a server."""

import argparse
import sys
from collections.abc import Sequence

from ignite_tips.tensorboard.run_plot import plot_runs

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw runs into a PNG file."""
    parser = argparse.ArgumentParser(prog="python -m ignite_tips.plot", description="Draw runs without a server.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the folder of a run's TensorBoard files")
    parser.add_argument("-o", "--output", default="runs.png", help="the picture; its ending is its format")
    parser.add_argument("--title", help="stands above the picture")
    options = parser.parse_args(arguments)
    try:
        figure = plot_runs(options.runs, title=options.title)
        figure.savefig(options.output)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"python -m ignite_tips.plot: {error}")
    print(options.output)


if __name__ == "__main__":
    main()
