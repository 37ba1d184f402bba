"""The exception that ended each worker, in a line that the worker itself writes into memory of the launcher."""

import os
import sys

__all__ = ["ErrorLines"]

_MOST_CHARACTERS = 500


class ErrorLines:
    """A file without a name, to which startup/sitecustomize.py appends. Linux only.

    Attributes:
        environment: variables that tell a worker where to write.
    """

    def __init__(self) -> None:
        self.environment: dict[str, str] = {}
        if sys.platform == "linux":
            self._file = os.memfd_create("ignite-launch-errors")
            self.environment["IGNITE_LAUNCH_ERROR_FILE"] = f"/proc/{os.getpid()}/fd/{self._file}"

    def clear(self) -> None:
        """Forget the errors of an earlier start."""
        if self.environment:
            os.ftruncate(self._file, 0)

    def of_rank(self, rank: int) -> str:
        """Return the line of the exception that ended a worker, or "" if it ended in another way."""
        if not self.environment:
            return ""
        with open(os.dup(self._file), encoding="utf-8", errors="replace") as file:
            file.seek(0)
            lines = dict(line.rstrip("\n").split(" ", 1) for line in file if " " in line)
        return lines.get(str(rank), "")[:_MOST_CHARACTERS]
