"""What can go wrong before a script runs: each is one sentence and an exit code."""

__all__ = ["LaunchError", "UsageError"]


class LaunchError(Exception):
    """The launch cannot go on, through no fault of the command line; the message is one sentence."""

    exit_code = 1


class UsageError(LaunchError):
    """The command line asks for something that does not exist or contradicts itself."""

    exit_code = 2
