"""The command line's words to LaunchOptions; what is wrong with them, in one sentence."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from .digits import is_whole_number
from .errors import UsageError
from .options import STRATEGIES, LaunchOptions

__all__ = ["HELP", "Request", "parse"]

HELP = """\
usage: ignite-launch [options] script.py [arguments]
       ignite-launch [options] -m package.module [arguments]

which GPUs
  --gpus IDS           0,1 as nvidia-smi counts, UUIDs, all, none, or free:N for the
                       N with the most free memory and no process (default: all)
  --list-gpus          print index, name, memory and processes of each, and end
how
  --strategy NAME      single (one GPU), dp (one process, several GPUs), ddp (one
                       process a GPU) or auto (default: ddp if several, else single)
  --nproc N            processes on this node; on the CPU they talk over gloo
  -m                   run a module, as python -m does
  --dry-run            print the plan as JSON and as a shell line, and end
several nodes          (srun gives the first three by itself)
  --nnodes N           how many nodes; MIN:MAX for an elastic number
  --node-rank R        this node's number, from 0
  --rdzv-endpoint HOST:PORT   node 0 and a free port on it
  --interface NAME     the network interface between the nodes, such as eth0
life and death
  --max-restarts N     start the workers again up to N times when one fails (default: 0)
  --grace SECONDS      time to save and end after Ctrl-C or SIGTERM (default: 30)
  --log-dir DIR        each rank's output in a file of its own, rank 0's here too
  -h, --help           print this, and end

examples
  ignite-launch --gpus 0,1 train.py --epochs 10
  ignite-launch --gpus free:1 --dry-run -m package.train
  ignite-launch --nproc 2 --max-restarts 3 train.py --resume checkpoints
"""


@dataclass(frozen=True)
class Request:
    """What one command line asks for: one of these three.

    Attributes:
        options: a launch, or None.
        dry_run: whether to show the launch instead of doing it.
        list_gpus: show the machine's GPUs.
        help: show ``HELP``.
    """

    options: LaunchOptions | None = None
    dry_run: bool = False
    list_gpus: bool = False
    help: bool = False


class _Once(argparse.Action):
    """Keeps an option's value, and refuses a second one, which would take its place in silence."""

    text = ""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any) -> None:
        if self.text:
            parser.error(f"argument {self.option_strings[0]}: given twice, {self.text} and {values!r}")
        self.text = repr(values)
        setattr(namespace, self.dest, values)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        words = message.replace("ignored explicit argument", "takes no value, got")
        raise UsageError(f"{words}; see ignite-launch --help")


def parse(argv: Sequence[str]) -> Request:
    """Return what ``argv`` asks for.

    Raises:
        UsageError: an option is unknown, lacks its value or has a wrong one, or there is no script.
    """
    values = vars(_parser().parse_args(argv))
    target, dry_run = values.pop("target"), values.pop("dry_run")
    if values.pop("help"):
        return Request(help=True)
    if values.pop("list_gpus"):
        if target:
            raise UsageError(f"--list-gpus runs no script, got {target[0]!r}; leave out one of them")
        return Request(list_gpus=True)
    if target[:1] == ["--"]:
        target = target[1:]
    if not target:
        raise UsageError("a script, or a module with -m, must be named; see ignite-launch --help")
    return Request(LaunchOptions(target[0], tuple(target[1:]), **values), dry_run)


def _parser() -> _Parser:
    parser = _Parser(prog="ignite-launch", allow_abbrev=False, add_help=False)
    for flags, name in (
        (("-m",), "module"),
        (("--dry-run",), "dry_run"),
        (("--list-gpus",), "list_gpus"),
        (("-h", "--help"), "help"),
    ):
        parser.add_argument(*flags, dest=name, action="store_true")
    for option, convert in (("--nproc", _whole(1)), ("--node-rank", _whole(0)), ("--nnodes", _node_counts)):
        parser.add_argument(option, type=convert, action=_Once)
    for option in ("--gpus", "--interface", "--log-dir"):
        parser.add_argument(option, type=_filled, action=_Once)
    parser.add_argument("--rdzv-endpoint", dest="endpoint", type=_filled, action=_Once)
    parser.add_argument("--strategy", type=_strategy, default="auto", action=_Once)
    parser.add_argument("--max-restarts", type=_whole(0), default=0, action=_Once)
    parser.add_argument("--grace", type=_seconds, default=30.0, action=_Once)
    # Everything from the script on is the script's, options and all.
    parser.add_argument("target", nargs=argparse.REMAINDER)
    return parser


def _whole(least: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not is_whole_number(text.removeprefix("-")) or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be an integer >= {least}, got {text!r}")
        return int(text)

    return convert


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of seconds >= 0, got {text!r}")
    return value


def _strategy(text: str) -> str:
    if text not in STRATEGIES:
        raise argparse.ArgumentTypeError(f"must be {', '.join(STRATEGIES[:-1])} or {STRATEGIES[-1]}, got {text!r}")
    return text


def _filled(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def _node_counts(text: str) -> tuple[int, int]:
    least, colon, most = text.partition(":")
    counts = [int(part) for part in (least, most if colon else least) if is_whole_number(part)]
    if len(counts) != 2 or not 1 <= counts[0] <= counts[1]:
        raise argparse.ArgumentTypeError(f"must be N or MIN:MAX with 1 <= MIN <= MAX, got {text!r}")
    return counts[0], counts[1]
