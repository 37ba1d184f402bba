"""Whole runs under ignite-launch: scripts for other launchers, and the demo killed and restarted."""

import random
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from tests.ignite_launch.support import Launch, launch
from tests.settings import seeded
from tests.support import run_script

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
# In the first start rank 1 dies at an update that the test has drawn; a start after a checkpoint resumes.
_DEMO = """
import os, runpy, signal, sys
from pathlib import Path
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

demo, seed, runs, death = sys.argv[1:]
start = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
updates = 0

def die(optimizer, args, kwargs):
    global updates
    updates += 1
    if os.environ["RANK"] == "1" and start == 0 and updates == int(death):
        os.kill(os.getpid(), signal.SIGKILL)

register_optimizer_step_post_hook(die)
torch.set_num_threads(1)
sys.argv = [demo, "--epochs", "2", "--unfreeze-epoch", "2", "--seed", seed, "--runs", runs]
sys.argv += ["--resume"] * any(Path(runs).glob("*/checkpoint_*.pt"))
runpy.run_path(demo, run_name="__main__")
"""


@pytest.mark.parametrize(
    ("script", "slurm"),
    [(_PARALLEL, False), (_PARALLEL, True), (_PLAIN, False)],
    ids=["idist.Parallel", "idist.Parallel in srun", "torch.distributed"],
)
def test_scripts_for_other_launchers_run_unchanged(tmp_path: Path, script: str, slurm: bool) -> None:
    """Ignite's and torch's own examples find their ranks and agree on a sum; also in an srun task."""
    (tmp_path / "main.py").write_text(script)
    task = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_JOB_ID": "7"}
    task |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1", "SLURM_JOB_NODELIST": "node1"}
    task |= {"SLURM_JOB_NUM_NODES": "1", "SLURM_NODEID": "0", "SLURM_STEP_NODELIST": "node1"}
    result = launch(tmp_path, "--nproc", "2", "main.py", **(task if slurm else {}))
    assert result.code == 0, result.err
    lines = [line for line in result.out.splitlines() if "gloo" in line]
    assert sorted(lines) == ["0 0 2 2 gloo 3.0", "1 1 2 2 gloo 3.0"]


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


@pytest.mark.timeout(240)
def test_the_demo_survives_a_killed_worker(tmp_path: Path) -> None:
    """With --max-restarts and a worker killed at a random update, the weights equal the undisturbed run's."""
    (tmp_path / "demo.py").write_text(_DEMO)
    demo = str(_ROOT / "examples" / "digits.py")
    death = str(random.Random(seeded(5)).randrange(1, 44))  # of 44 updates
    runs = {name: tmp_path / name for name in ("undisturbed", "killed")}
    arguments = [demo, str(seeded()), str(runs["killed"]), death]
    result = launch(tmp_path, "--nproc", "2", "--max-restarts", "1", "demo.py", *arguments, timeout=110, fresh=True)
    assert result.code == 0, (death, result.err)
    assert result.err.count("; restart 1 of 1") == 1
    arguments = [demo, str(seeded()), str(runs["undisturbed"]), "0"]
    alone = {"folder": tmp_path, "world_size": 2, "TORCHELASTIC_RESTART_COUNT": "0"}
    assert [rank.code for rank in run_script(tmp_path / "demo.py", *arguments, **alone)] == [0, 0]
    finals = {}
    for name, folder in runs.items():
        newest = max(folder.glob("*/checkpoint_*.pt"), key=lambda path: path.stat().st_mtime)
        finals[name] = torch.load(newest, weights_only=True)["model"]
    assert finals["killed"].keys() == finals["undisturbed"].keys()
    for key, value in finals["undisturbed"].items():
        assert torch.equal(value, finals["killed"][key]), (death, key)
