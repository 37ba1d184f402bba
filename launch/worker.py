"""The few lines that run in each worker before the user's script, which then takes the process over by exec.

Executed as a file, without site packages, so that it costs milliseconds: ``worker.py LAUNCHER_PID COMMAND…``.
"""

import ctypes
import os
import signal
import sys
from collections.abc import MutableMapping

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> None:
    """Tie this process's life to the launcher's, then become the command."""
    launcher, command = int(argv[0]), argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != launcher:  # it died before the line above
        os.kill(os.getpid(), signal.SIGKILL)
    _agree_with_slurm(os.environ)
    os.execv(command[0], command)


def _agree_with_slurm(environ: MutableMapping[str, str]) -> None:
    """Say in SLURM's variables what torch's say: srun knows of one task per node, and Ignite believes SLURM first."""
    if "SLURM_JOB_ID" in environ:
        for theirs, ours in (("PROCID", "RANK"), ("LOCALID", "LOCAL_RANK"), ("NTASKS", "WORLD_SIZE")):
            environ[f"SLURM_{theirs}"] = environ[ours]


if __name__ == "__main__":
    main(sys.argv[1:])
