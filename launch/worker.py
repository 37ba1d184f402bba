"""Variables of a worker, besides those that torch's agent sets."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["slurm_ranks", "startup_variables"]

_STARTUP = str(Path(__file__).with_name("startup"))


def startup_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables by which a worker's Python finds ``startup/sitecustomize.py``, which hides them again."""
    inherited = environ.get("PYTHONPATH")
    path = f"{_STARTUP}{os.pathsep}{inherited}" if inherited else _STARTUP
    return {"PYTHONPATH": path, "IGNITE_LAUNCH_PID": str(os.getpid())}


def slurm_ranks(environ: Mapping[str, str], ranks: Mapping[str, Any]) -> dict[str, str]:
    """Return SLURM's variables for torch's ranks, or for a single process; none outside SLURM.

    srun counts one task a node, an allocation the tasks that it has room for, and Ignite reads SLURM's variables first.
    """
    if "SLURM_JOB_ID" not in environ:
        return {}
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"} | dict(ranks)
    return {
        "SLURM_PROCID": ranks["RANK"],
        "SLURM_LOCALID": ranks["LOCAL_RANK"],
        "SLURM_NTASKS": ranks["WORLD_SIZE"],
    }
