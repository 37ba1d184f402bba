"""What is wrong with a launch before anything is started: its script, its folder for logs, its variables."""

import logging
import os
from pathlib import Path

from .errors import UsageError
from .options import LaunchOptions

__all__ = ["check_log_level", "check_target", "make_log_dir"]


def check_target(options: LaunchOptions) -> None:
    """Raise UsageError if python could not run the script, or if ``-m`` is given a path."""
    name = options.script
    if options.module:
        if not name or name.startswith(".") or os.sep in name or os.path.isfile(name):
            raise UsageError(f"-m must name a module such as package.train, got {name!r}; a script needs no -m")
    elif not os.path.exists(name):
        raise UsageError(f"there is no script {name!r}{'' if os.path.isabs(name) else f' in {_here()}'}")
    elif os.path.isdir(name) and not os.path.exists(os.path.join(name, "__main__.py")):
        raise UsageError(f"the folder {name!r} has no __main__.py that could be run; name a script")
    elif not os.access(name, os.R_OK):
        raise UsageError(f"the script {name!r} may not be read by this user")


def make_log_dir(folder: str | None) -> None:
    """Make the folder for logs, if one is asked for; raise UsageError if it cannot be one."""
    if folder is None:
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--log-dir {folder} cannot be a folder for logs: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"--log-dir {folder} cannot be a folder for logs: this user may not write to it")


def check_log_level() -> None:
    """Raise UsageError if torch would stumble over LOGLEVEL, which its launcher reads at its import."""
    level = os.environ.get("LOGLEVEL")
    if level is not None and level not in logging.getLevelNamesMapping():
        names = ", ".join(logging.getLevelNamesMapping())
        raise UsageError(f"LOGLEVEL must be one of {names}, got {level!r}; torch's launcher reads it")


def _here() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "the working folder, which was removed"
