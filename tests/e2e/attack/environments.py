"""Launches with random variables of the kinds that a launcher reads."""

import random
import string
from pathlib import Path

from tests.ignite_launch.scripts import write_script
from tests.ignite_launch.support import Launch

__all__ = ["try_environment"]

_TOO_LONG = 60.0


def try_environment(folder: Path, source: random.Random) -> str:
    """Launch with random variables of the kinds that a launcher reads; return what is wrong; "" if nothing is.

    Right is a run to the end, or one sentence and exit code 2 or 1.
    """
    names = [
        *("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS", "LOGLEVEL"),
        *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "TORCH_CPP_LOG_LEVEL", "TORCHELASTIC_RUN_ID", "LANG", "LC_ALL"),
        *("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_NODEID", "SLURM_STEP_NUM_NODES", "HOME", "TZ"),
        *("PET_NNODES", "PET_NPROC_PER_NODE", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"),
        *("IGNITE_LAUNCH_STRATEGY", "IGNITE_LAUNCH_BACKEND", "IGNITE_LAUNCH_RUN_ID", "PYTHONUNBUFFERED", "COLUMNS"),
    ]
    values = ["", "0", "1", "-1", "2", "abc", "ä", "9" * 30, " ", "/", "localhost", "127.0.0.1", "None", "\udcff"]
    values.append("".join(source.choices(string.printable, k=20)))
    chosen = {name: source.choice(values) for name in source.sample(names, source.randint(1, 6))}
    script = write_script(folder, 'print(f"rank {RANK} done", flush=True)')
    nproc = source.choice(["1", "2"])
    try:
        with Launch(folder, "--nproc", nproc, script, fresh=True, **chosen) as running:
            result = running.result(_TOO_LONG)
    except Exception as error:
        return f"{chosen}, --nproc {nproc}: {type(error).__name__}: {error}"
    sentence = result.code in (1, 2) and "ignite-launch: error: " in result.err
    script_failed = result.code == 1 and "script.py" in result.err  # such as a RANK that is no number
    if (result.code == 0 and "done" in result.out) or sentence or script_failed:
        return ""
    return f"{chosen}, --nproc {nproc}: exit code {result.code}: {result.err[-500:]}"
