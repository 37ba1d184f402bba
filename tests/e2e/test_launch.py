"""Scripts for other launchers under ignite-launch, and two launches at once."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.ignite_launch.support import Launch, launch

pytestmark = pytest.mark.distributed
_ROOT = Path(__file__).parents[2]

# As in Ignite's documentation of idist.Parallel, for processes that another launcher started.
_PARALLEL = """
import sys
import ignite.distributed as idist

def training(local_rank, config, **kwargs):
    import torch
    total = idist.all_reduce(torch.tensor([float(idist.get_rank() + 1)]))
    names = idist.all_gather(f"rank {idist.get_rank()}")
    place = f"{local_rank} {idist.get_rank()} {idist.get_world_size()} {idist.get_nproc_per_node()}"
    sys.stdout.write(f"{place} {idist.backend()} {total.item()}\\n")
    assert names == [f"rank {rank}" for rank in range(idist.get_world_size())]

if __name__ == "__main__":
    with idist.Parallel(backend="gloo") as parallel:
        parallel.run(training, {"lr": 0.1}, a=1)
"""
_PLAIN = """
import os, sys, torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.ones(1) * (dist.get_rank() + 1)
dist.all_reduce(total)
place = f"{os.environ['LOCAL_RANK']} {dist.get_rank()} {dist.get_world_size()} {os.environ['LOCAL_WORLD_SIZE']}"
sys.stdout.write(f"{place} gloo {total.item()}\\n")
dist.destroy_process_group()
"""

_TIPS = """
import sys, torch, ignite.distributed as idist
from ignite_tips import process_group
with process_group():
    total = idist.all_reduce(torch.tensor([float(idist.get_rank() + 1)]))
    place = f"{idist.get_local_rank()} {idist.get_rank()} {idist.get_world_size()} {idist.get_nproc_per_node()}"
    sys.stdout.write(f"{place} {idist.backend()} {total.item()}\\n")
"""


@pytest.mark.parametrize(
    ("script", "slurm"),
    [(_PARALLEL, False), (_PARALLEL, True), (_PLAIN, False), (_TIPS, False)],
    ids=["idist.Parallel", "idist.Parallel in srun", "torch.distributed", "process_group()"],
)
def test_scripts_for_other_launchers_run_unchanged(tmp_path: Path, script: str, slurm: bool) -> None:
    """Ignite's and torch's own examples find their ranks and agree on a sum; also in an srun task.

    With each of them the processes train together, so the launcher doesn't say that a process group is missing.
    """
    (tmp_path / "main.py").write_text(script)
    task = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_JOB_ID": "7"}
    task |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1", "SLURM_JOB_NODELIST": "node1"}
    task |= {"SLURM_JOB_NUM_NODES": "1", "SLURM_NODEID": "0", "SLURM_STEP_NODELIST": "node1"}
    result = launch(tmp_path, "--nproc", "2", "main.py", **(task if slurm else {}))
    assert result.code == 0, result.err
    lines = [line for line in result.out.splitlines() if "gloo" in line]
    assert sorted(lines) == ["0 0 2 2 gloo 3.0", "1 1 2 2 gloo 3.0"]
    assert "process group" not in result.err


def test_two_simultaneous_launches_are_separate(tmp_path: Path) -> None:
    """Two runs started together on one machine each have two workers and their own rendezvous port."""
    script = "import os, sys\nsys.stdout.write(' '.join(os.environ[name] for name in sys.argv[1:]) + '\\n')"
    with ExitStack() as stack:
        runs = []
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "main.py").write_text(script)
            arguments = ["--nproc", "2", "main.py", "RANK", "WORLD_SIZE", "MASTER_PORT"]
            runs.append(stack.enter_context(Launch(tmp_path / name, *arguments)))
        results = [run.result() for run in runs]
    ports = set()
    for result in results:
        assert result.code == 0, result.err
        lines = sorted(line.split() for line in result.out.splitlines())
        assert [line[:2] for line in lines] == [["0", "2"], ["1", "2"]]
        assert lines[0][2] == lines[1][2]
        ports.add(lines[0][2])
    assert len(ports) == 2
