"""What the launcher says: one line at a time, on stderr, so that the script's own output stays the script's."""

import contextlib
import sys

from .errors import LaunchError

__all__ = ["say", "say_error"]


def say(text: str) -> None:
    """Print one line of the launcher's own to stderr; a console that is gone stops nothing."""
    with contextlib.suppress(OSError):  # the terminal hung up, or the reader of the pipe went away
        print(f"ignite-launch: {text}", file=sys.stderr, flush=True)


def say_error(error: LaunchError) -> int:
    """Print what went wrong and return the exit code for it."""
    say(f"error: {error}")
    return error.exit_code
