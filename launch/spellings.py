"""Other spellings of options: torchrun's, which mean the same, and what people type instead."""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["other_spellings", "suggest_option"]

_TORCHRUN = {"--nproc": "--nproc-per-node", "-m": "--module"}
_MEANT = {
    "-n": "--nproc",
    "--np": "--nproc",
    "--num-processes": "--nproc",
    "--cpu": "--gpus none",
    "--devices": "--gpus",
    "--master-addr": "--rdzv-endpoint HOST:PORT",
    "--master-port": "--rdzv-endpoint HOST:PORT",
    "--rdzv-backend": "--nnodes MIN:MAX",
}


def other_spellings(flags: str) -> list[str]:
    """Return torchrun's spellings of an option: some have another name, and all may have underscores.

    Example:
        >>> other_spellings("--nproc"), other_spellings("--log-dir"), other_spellings("-h --help")
        (['--nproc-per-node', '--nproc_per_node'], ['--log_dir'], [])
    """
    names = [_TORCHRUN[flags]] if flags in _TORCHRUN else []
    underscored = ["--" + flag[2:].replace("-", "_") for flag in (flags, *names) if "-" in flag[2:]]
    return names + [flag for flag in underscored if " " not in flag]


def suggest_option(unknown: str, flags: Iterable[str]) -> str:
    """Return "; did you mean ...?" for an unknown option, or "" if nothing is near."""
    unknown = unknown.replace("_", "-")
    known = _MEANT.get(unknown) or next(iter(get_close_matches(unknown, list(flags))), None)
    return f"; did you mean {known}?" if known else ""
