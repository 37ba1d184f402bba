"""Command line to LaunchOptions, from one table of options; wrong usage gets one sentence."""

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from .errors import UsageError
from .options import LaunchOptions
from .spellings import other_spellings, suggest_option
from .templates import TEMPLATES

__all__ = ["Request", "format_help", "options_among", "parse", "parse_integer", "parse_node_counts"]

_STRATEGIES = ("auto", "single", "dp", "ddp")
_SHOWN = ("help", "version", "list_gpus", "env", "template")
_CHECK = "ignite_launch.all_reduce_check"
_MAX_DIGITS = 18  # fits into 64 bits; Python refuses to convert thousands of digits
_USAGE = """ignite-launch [options] script.py [arguments]
       ignite-launch [options] -m package.module [arguments]"""
_EXAMPLES = """examples:
  ignite-launch --gpus 0,1 train.py --epochs 10
  ignite-launch --gpus free:1 --dry-run -m package.train
  ignite-launch --nproc 2 --max-restarts 3 train.py --resume checkpoints"""


@dataclass(frozen=True)
class Request:
    """What the command line asks for: a launch, or something to print.

    Attributes:
        options: options of the launch, or None.
        dry_run: show the launch instead of running it.
        check: the launch is that of ``--check``.
        show: what to print instead: ``help``, ``version``, ``list_gpus``, ``env`` or ``template``; or empty.
        template: which template to print.
    """

    options: LaunchOptions | None = None
    dry_run: bool = False
    check: bool = False
    show: str = ""
    template: str = ""


def parse(argv: Sequence[str]) -> Request:
    """Return what ``argv`` asks for.

    Raises:
        UsageError: an option is unknown, lacks its value or has a wrong one, or there is no script.
    """
    values = vars(_make_parser().parse_args(argv))
    del values["standalone"], values["given"]
    target, dry_run, template = values.pop("target"), values.pop("dry_run"), values["template"]
    asked = [name for name in (*_SHOWN, "check") if values.pop(name)]
    if target[:1] == ["--"]:
        target = target[1:]
    if "help" in asked:
        return Request(show="help")
    options = [f"--{name.replace('_', '-')}" for name in asked]
    if len(asked) > 1:
        raise UsageError(f"{' and '.join(options)} cannot be given together; remove one of them")
    if asked and target:
        raise UsageError(f"{options[0]} takes no script, got {target[0]!r}; remove one of the two")
    if asked == ["check"]:
        return Request(LaunchOptions(_CHECK, **values | {"module": True}), dry_run, check=True)
    if asked:
        return Request(show=asked[0], template=template or "")
    if not target:
        raise UsageError("name a script, or a module with -m; see ignite-launch --help")
    if values["gpus"] is not None and parse_integer(target[0]) is not None:
        raise UsageError(f"numbers of GPUs are separated by commas: --gpus {values['gpus']},{target[0]}")
    return Request(LaunchOptions(target[0], tuple(target[1:]), **values), dry_run)


def options_among(arguments: Sequence[str]) -> list[str]:
    """Return the script's arguments that are spelled like options of the launcher with two dashes."""
    return [word for word in arguments if word.partition("=")[0] in _flags() and word.startswith("--")]


def format_help() -> str:
    """Return the text of ``--help``."""
    return _make_parser().format_help().rstrip()


def parse_integer(text: str) -> int | None:
    """Return the integer >= 0 that ``text`` is in ASCII digits alone, or None.

    Example:
        >>> [parse_integer(text) for text in ("007", "-1", "1.0", "²", "9" * 5000)]
        [7, None, None, None, None]
    """
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS else None


def parse_node_counts(text: str) -> tuple[int, int] | None:
    """Return the least and most nodes of ``N`` or ``MIN:MAX``, or None.

    Example:
        >>> [parse_node_counts(text) for text in ("2", "1:4", "4:1", "0")]
        [(2, 2), (1, 4), None, None]
    """
    minimum, colon, maximum = text.partition(":")
    least, most = parse_integer(minimum), parse_integer(maximum if colon else minimum)
    return None if least is None or most is None or not 1 <= least <= most else (least, most)


def _processes(text: str) -> int | None:
    # torchrun's words for what the plan chooses anyway.
    return None if text in ("auto", "gpu") else _integer(1)(text)


def _integer(minimum: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        value = parse_integer(text)
        if value is None or value < minimum:
            raise argparse.ArgumentTypeError(f"must be an integer >= {minimum}, got {text!r}")
        return value

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
    text = text.lower()
    if text not in _STRATEGIES:
        raise argparse.ArgumentTypeError(f"must be {', '.join(_STRATEGIES[:-1])} or {_STRATEGIES[-1]}, got {text!r}")
    return text


def _template(text: str) -> str:
    if text not in TEMPLATES:
        *names, last = TEMPLATES
        raise argparse.ArgumentTypeError(f"must be {', '.join(names)} or {last}, got {text!r}")
    return text


def _text(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def _node_counts(text: str) -> tuple[int, int]:
    counts = parse_node_counts(text)
    if counts is None:
        raise argparse.ArgumentTypeError(f"must be N or MIN:MAX with 1 <= MIN <= MAX, got {text!r}")
    return counts


# The one table of options, in argparse's words: the parser and the help are both made from it.
_OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "which GPUs": {
        "--gpus": {
            "metavar": "IDS",
            "type": _text,
            "help": "numbers as in nvidia-smi (0,1), UUIDs, all, none, or free:N for the N unused GPUs with the most "
            "free memory (default: all)",
        },
        "--list-gpus": {
            "action": "store_true",
            "help": "print each GPU's number, name, memory and processes, and exit",
        },
    },
    "how to run": {
        "--strategy": {
            "metavar": "NAME",
            "type": _strategy,
            "default": LaunchOptions.strategy,
            "help": "single (one GPU), dp (one process, several GPUs), ddp (one process per GPU), or auto: ddp for "
            "several GPUs, processes or nodes, else single (default: %(default)s)",
        },
        "--nproc": {"metavar": "N", "type": _processes, "help": "processes on this node; on the CPU they use gloo"},
        "-m": {"dest": "module", "action": "store_true", "help": "run a module, like python -m"},
        "--dry-run": {"action": "store_true", "help": "print the plan as JSON and as a shell command, and exit"},
    },
    "several nodes (srun, mpirun and Kubernetes set the first three)": {
        "--nnodes": {"metavar": "N", "type": _node_counts, "help": "number of nodes; MIN:MAX for an elastic number"},
        "--node-rank": {"metavar": "R", "type": _integer(0), "help": "this node's rank, from 0"},
        "--rdzv-endpoint": {
            "metavar": "HOST:PORT",
            "dest": "endpoint",
            "type": _text,
            "help": "node 0 and a free port on it",
        },
        "--interface": {"metavar": "NAME", "type": _text, "help": "network interface between the nodes, such as eth0"},
    },
    "failures, signals and logs": {
        "--max-restarts": {
            "metavar": "N",
            "type": _integer(0),
            "help": "restart failed workers up to N times (default: 0)",
        },
        "--grace": {
            "metavar": "SECONDS",
            "type": _seconds,
            "default": LaunchOptions.grace,
            "help": "time to save and exit after Ctrl-C, SIGTERM or another worker's failure (default: %(default)g)",
        },
        "--log-dir": {
            "metavar": "DIR",
            "type": _text,
            "help": "write each rank's output to a file; rank 0's is also printed",
        },
    },
    "about": {
        "--env": {"action": "store_true", "help": "print what a bug report needs, and exit"},
        "--check": {"action": "store_true", "help": "instead of a script, try an all-reduce and time it"},
        "--template": {
            "metavar": "NAME",
            "type": _template,
            "help": f"print a cluster job: {', '.join(TEMPLATES)}",
        },
        "--version": {"action": "store_true", "help": "print the version, and exit"},
        "-h --help": {"action": "store_true", "help": "print this help, and exit"},
    },
}


def _flags() -> list[str]:
    return [flag for options in _OPTIONS.values() for flags in options for flag in flags.split()]


class _Once(argparse.Action):
    """Stores an option's value and refuses a second one, in any spelling, which argparse would accept silently."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any) -> None:
        given: dict[str, Any] = parser.get_default("given")
        if self.dest in given:
            parser.error(f"argument {self.option_strings[0]}: given twice, {given[self.dest]!r} and {values!r}")
        given[self.dest] = values
        setattr(namespace, self.dest, values)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        sentence = message.replace("ignored explicit argument", "takes no value, got")
        unknown = re.match("unrecognized arguments: (-[^ =]*)", message)
        if unknown is not None:
            sentence = f"there is no option {unknown[1]}{suggest_option(unknown[1], _flags())}"
        raise UsageError(f"{sentence}; see ignite-launch --help")


def _help_formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=26, width=90)


def _make_parser() -> _Parser:
    parser = _Parser(
        prog="ignite-launch",
        usage=_USAGE,
        epilog=_EXAMPLES,
        formatter_class=_help_formatter,
        allow_abbrev=False,
        add_help=False,
    )
    parser.set_defaults(given={})
    parser.register("action", None, _Once)  # in place of argparse's default action, "store"
    for title, options in _OPTIONS.items():
        group = parser.add_argument_group(title)
        for flags, keywords in options.items():
            action = group.add_argument(*flags.split(), **keywords)
            for spelling in other_spellings(flags):
                parser.add_argument(spelling, **keywords | {"dest": action.dest, "help": argparse.SUPPRESS})
    parser.add_argument("--standalone", action="store_true", help=argparse.SUPPRESS)  # as without --nnodes
    # Everything after the script's name belongs to the script, options too.
    parser.add_argument("target", nargs=argparse.REMAINDER, action="store", help=argparse.SUPPRESS)
    return parser
