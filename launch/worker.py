"""Code that runs in each worker before the user's script, which then replaces it by exec.

Run as a file without site packages, which takes milliseconds: ``worker.py LAUNCHER_PID COMMAND…``.
"""

import ctypes
import os
import signal
import sys
from collections.abc import MutableMapping

__all__ = ["main", "set_slurm_ranks"]

_STARTUP = os.path.join(os.path.dirname(__file__), "startup")
_PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> None:
    """Make this process die with the launcher, then exec the command."""
    launcher, command = int(argv[0]), argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != launcher:  # the launcher died before prctl
        os.kill(os.getpid(), signal.SIGKILL)
    set_slurm_ranks(os.environ)
    os.environ["PYTHONPATH"] = os.pathsep.join([_STARTUP, *([path] if (path := os.environ.get("PYTHONPATH")) else [])])
    os.execv(command[0], command)


def set_slurm_ranks(environ: MutableMapping[str, str]) -> None:
    """Set SLURM's ranks to torch's, or to those of a single process.

    srun counts one task a node, an allocation the tasks that it has room for, and Ignite reads SLURM's variables first.
    """
    if "SLURM_JOB_ID" in environ:
        single = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        for slurm_name, torch_name in (("PROCID", "RANK"), ("LOCALID", "LOCAL_RANK"), ("NTASKS", "WORLD_SIZE")):
            environ[f"SLURM_{slurm_name}"] = environ.get(torch_name, single[torch_name])


if __name__ == "__main__":
    main(sys.argv[1:])
