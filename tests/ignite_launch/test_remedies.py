"""Remedies that the launcher's errors name: each is followed and gives the plan that was meant."""

import os
import resource
import shlex
import socket
from dataclasses import replace
from pathlib import Path

import ignite_launch.cli
import ignite_launch.preflight
import pytest
from ignite_launch.errors import LaunchError
from ignite_launch.gpus import Gpu, Inventory
from ignite_launch.nodes import STATIC, RendezvousPlan
from ignite_launch.plan import LaunchPlan
from ignite_launch.preflight import allow_open_files, check_host_name
from ignite_launch.rendezvous import prepare_rendezvous

from tests.ignite_launch.support import clean_environment

_GIB = 2**30


def _machine(*gpus: tuple[int, str]) -> Inventory:
    found = [Gpu(index, uuid, "L4", 20 * _GIB, 24 * _GIB, 0, mig=uuid.startswith("MIG")) for index, uuid in gpus]
    return Inventory(tuple(found), "" if found else "no NVIDIA driver found")


MACHINES = {
    "CPU": _machine(),
    "one": _machine((0, "GPU-aa")),
    "two": _machine((0, "GPU-aa"), (1, "GPU-ab")),
    "sliced": _machine((0, "GPU-aa"), (1, "MIG-1"), (1, "MIG-2")),
}
INTERFACES = {"lo": "127.0.0.1", "eth0": "192.0.2.2"}
_SRUN = "SLURM_STEP_ID=0 SLURM_STEP_NUM_NODES=2 SLURM_STEP_NODELIST=a[1-2] SLURM_JOB_ID=1 SLURM_NODEID=0"
_OPEN_MPI = "OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_RANK=0 MASTER_ADDR=n0 MASTER_PORT=29500"
_MPICH = "PMI_SIZE=2 PMI_RANK=0 MASTER_ADDR=n0 MASTER_PORT=29500"
_MEET = "--nproc 1 --rdzv-endpoint n0:29500"
_TWO_NODES = "on each of 2 nodes, rendezvous at n0:29500"

# The machine, a wrong command line, the remedy that its error names, the command line that follows it, and words of the
# plan that this gives.
REMEDIES = [
    ("CPU", "", "name a script", "s.py", "single (auto: no GPU)"),
    ("CPU", "", "or a module with -m", "-m package.train", "single (auto: no GPU)"),
    ("CPU", "--check s.py", "remove one of the two", "--check", "ddp (--check)"),
    ("CPU", "--check s.py", "remove one of the two", "s.py", "single (auto: no GPU)"),
    ("CPU", "--template slurm s.py", "remove one of the two", "s.py", "single (auto: no GPU)"),
    ("CPU", "folder", "name a script", "folder/s.py", "single (auto: no GPU)"),
    ("CPU", "-m s.py", "a script needs no -m", "s.py", "single (auto: no GPU)"),
    ("CPU", "python s.py", "leave out 'python'", "s.py", "single (auto: no GPU)"),
    ("CPU", "t.py", "did you mean s.py?", "s.py", "single (auto: no GPU)"),
    ("CPU", "folder/t.py", "did you mean folder/s.py?", "folder/s.py", "single (auto: no GPU)"),
    # Options that do not exist.
    ("CPU", "--nprocs 2 s.py", "did you mean --nproc?", "--nproc 2 s.py", "ddp (auto: --nproc 2)"),
    ("CPU", "-n 2 s.py", "did you mean --nproc?", "--nproc 2 s.py", "ddp (auto: --nproc 2)"),
    ("CPU", "--np 2 s.py", "did you mean --nproc?", "--nproc 2 s.py", "ddp (auto: --nproc 2)"),
    ("CPU", "--num-processes 2 s.py", "did you mean --nproc?", "--nproc 2 s.py", "ddp (auto: --nproc 2)"),
    ("two", "--cpu s.py", "did you mean --gpus none?", "--gpus none s.py", "1 process on the CPU (--gpus none)"),
    ("two", "--devices 1 s.py", "did you mean --gpus?", "--gpus 1 s.py", "1 process on GPU 1"),
    *(
        (
            "CPU",
            f"--nnodes 2 --node-rank 0 --nproc 1 {option} s.py",
            "did you mean --rdzv-endpoint HOST:PORT?",
            f"--nnodes 2 --node-rank 0 {_MEET} s.py",
            _TWO_NODES,
        )
        for option in ("--master-addr n0", "--master-port 29500")
    ),
    (
        "CPU",
        f"--rdzv-backend c10d {_MEET} s.py",
        "did you mean --nnodes MIN:MAX?",
        f"--nnodes 1:2 {_MEET} s.py",
        "on each of 1 to 2 nodes, rendezvous at n0:29500",
    ),
    # GPUs.
    ("two", "--gpus 0 1 s.py", "are separated by commas: --gpus 0,1", "--gpus 0,1 s.py", "2 processes on GPUs 0,1"),
    ("two", "--gpus 2 s.py", "available: 0 (", "--gpus 0 s.py", "1 process on GPU 0"),
    ("two", "--gpus x s.py", "available: 0 (", "--gpus 0 s.py", "1 process on GPU 0"),
    ("two", "--gpus 0,0 s.py", "1 (L4, 20.0 GiB free, 0 processes)", "--gpus 0,1 s.py", "2 processes on GPUs 0,1"),
    ("two", "--gpus 0,GPU-ab s.py", "available: 0 (L4", "--gpus 0,1 s.py", "2 processes on GPUs 0,1"),
    ("two", "--gpus GPU-a s.py", "more than one UUID: GPU-aa, GPU-ab", "--gpus GPU-ab s.py", "1 process on GPU 1"),
    ("two", "--gpus free s.py", "as in free:2", "--gpus free:2 s.py", "2 processes on GPUs 0,1"),
    ("two", "--gpus free:3 s.py", "but 2 of 2 have no process", "--gpus free:2 s.py", "2 processes on GPUs 0,1"),
    ("sliced", "--gpus 1 s.py", "name one of MIG-1, MIG-2", "--gpus MIG-1 s.py", "1 process on GPU MIG-1"),
    ("sliced", "s.py", "choose one of MIG-1, MIG-2", "--gpus MIG-2 s.py", "1 process on GPU MIG-2"),
    ("sliced", "s.py", "or whole GPUs, with --gpus", "--gpus 0 s.py", "1 process on GPU 0"),
    (
        "two",
        "CUDA_DEVICE_ORDER=FASTEST_FIRST CUDA_VISIBLE_DEVICES=1 s.py",
        "name the GPUs by UUID",
        "CUDA_DEVICE_ORDER=FASTEST_FIRST CUDA_VISIBLE_DEVICES=GPU-ab s.py",
        "1 process on GPU GPU-ab",
    ),
    (
        "two",
        "CUDA_DEVICE_ORDER=FASTEST_FIRST CUDA_VISIBLE_DEVICES=1 s.py",
        "or set CUDA_DEVICE_ORDER=PCI_BUS_ID",
        "CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=1 s.py",
        "1 process on GPU 1",
    ),
    # Strategies.
    ("CPU", "--strategy single --nproc 2 s.py", "need --strategy ddp", "--strategy ddp --nproc 2 s.py", "2 processes"),
    ("two", "--gpus 0,1 --strategy single s.py", "name one", "--gpus 1 --strategy single s.py", "1 process on GPU 1"),
    ("two", "--gpus 0,1 --strategy single s.py", "or remove --strategy single", "--gpus 0,1 s.py", "on GPUs 0,1"),
    ("two", "--gpus 0,1 --nproc 1 s.py", "or remove --nproc 1", "--gpus 0,1 s.py", "2 processes on GPUs 0,1"),
    ("CPU", "--strategy dp s.py", "use --strategy single", "--strategy single s.py", "single (--strategy single)"),
    ("one", "--strategy dp s.py", "use --strategy single", "--strategy single s.py", "1 process on GPU 0"),
    ("CPU", "--strategy ddp s.py", "needs --nproc, the number", "--strategy ddp --nproc 2 s.py", "2 processes on the"),
    ("two", "--nproc 3 s.py", "--gpus none trains on the CPU", "--gpus none --nproc 3 s.py", "3 processes on the CPU"),
    (
        "two",
        "--gpus 0,1 --nproc 1 --strategy ddp s.py",
        "would leave some idle; remove --nproc",
        "--gpus 0,1 --strategy ddp s.py",
        "2 processes on GPUs 0,1",
    ),
    # Several nodes.
    ("CPU", f"{_MEET} s.py", "number with --nnodes", f"--nnodes 2 --node-rank 0 {_MEET} s.py", _TWO_NODES),
    (
        "CPU",
        "--nnodes 2 --node-rank 0 --nproc 1 s.py",
        "several nodes need --rdzv-endpoint HOST:PORT, where HOST is node 0",
        f"--nnodes 2 --node-rank 0 {_MEET} s.py",
        _TWO_NODES,
    ),
    ("CPU", f"--nnodes 2 {_MEET} s.py", "needs --node-rank", f"--nnodes 2 --node-rank 1 {_MEET} s.py", _TWO_NODES),
    (
        "CPU",
        f"--strategy dp --nnodes 2 --node-rank 0 {_MEET} s.py",
        "several nodes need --strategy ddp",
        f"--strategy ddp --nnodes 2 --node-rank 0 {_MEET} s.py",
        _TWO_NODES,
    ),
    (
        "CPU",
        "SLURM_STEP_ID=0 s.py",
        "give --nnodes, --node-rank and --rdzv-endpoint",
        f"SLURM_STEP_ID=0 --nnodes 2 --node-rank 1 {_MEET} s.py",
        _TWO_NODES,
    ),
    ("CPU", "SLURM_STEP_ID=0 s.py", "or unset SLURM_STEP_ID", "s.py", "single (auto: no GPU): 1 process on the CPU"),
    (
        "CPU",
        f"{_SRUN} SLURM_STEP_NUM_TASKS=4 --nproc 1 s.py",
        "use srun --ntasks-per-node=1",
        f"{_SRUN} SLURM_STEP_NUM_TASKS=2 --nproc 1 s.py",
        "on each of 2 nodes, rendezvous at a1:20001, from srun's variables",
    ),
    (
        "CPU",
        f"{_OPEN_MPI} OMPI_COMM_WORLD_LOCAL_SIZE=2 --nproc 1 s.py",
        "use mpirun --map-by ppr:1:node --bind-to none",
        f"{_OPEN_MPI} OMPI_COMM_WORLD_LOCAL_SIZE=1 --nproc 1 s.py",
        f"{_TWO_NODES}, from mpirun's variables",
    ),
    (
        "CPU",
        f"{_MPICH} MPI_LOCALNRANKS=2 --nproc 1 s.py",
        "use mpirun -ppn 1",
        f"{_MPICH} MPI_LOCALNRANKS=1 --nproc 1 s.py",
        f"{_TWO_NODES}, from mpirun's variables",
    ),
    (
        "CPU",
        "OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_LOCAL_SIZE=1 --nproc 1 s.py",
        "several nodes need --rdzv-endpoint HOST:PORT, where HOST is node 0; mpirun's variables say",
        f"OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_LOCAL_SIZE=1 {_MEET} s.py",
        _TWO_NODES,
    ),
    (
        "CPU",
        "PET_NNODES=2 --nproc 1 s.py",
        "several nodes need --rdzv-endpoint HOST:PORT, where HOST is node 0; the PET_ variables say",
        f"PET_NNODES=2 {_MEET} s.py",
        "on each of 2 nodes, rendezvous at n0:29500, from the PET_ variables",
    ),
    # What torch would trip over.
    ("CPU", "LOGLEVEL=loud --nproc 2 s.py", "INFO, DEBUG", "LOGLEVEL=INFO --nproc 2 s.py", "2 processes on the CPU"),
    ("CPU", "--interface eth1 s.py", "available: lo (127.0.0.1)", "--interface lo s.py", "1 process on the CPU"),
]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ.keys() - clean_environment().keys():
        monkeypatch.delenv(name)
    (tmp_path / "folder").mkdir()
    for name in ("s.py", "folder/s.py"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ignite_launch.preflight, "interface_addresses", lambda: INTERFACES)


def _launch(line: str, machine: str, patch: pytest.MonkeyPatch) -> tuple[int | None, list[LaunchPlan]]:
    """Call the command in this process, with the variables before it; return its code and the plan it would run."""
    words = shlex.split(line)
    arguments = words[sum("=" in word for word in words) :]
    plans: list[LaunchPlan] = []
    with patch.context() as within:
        for word in words[: -len(arguments) or None]:
            within.setenv(*word.split("=", 1))
        within.setattr(ignite_launch.cli, "read_inventory", lambda: MACHINES[machine])
        within.setattr(ignite_launch.cli, "run", plans.append)
        return ignite_launch.cli.main(arguments), plans


@pytest.mark.parametrize(("machine", "wrong", "remedy", "right", "words"), REMEDIES)
def test_the_remedy_works(
    machine: str,
    wrong: str,
    remedy: str,
    right: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The wrong line gets an error that names it; the line that follows it gets its plan, and no word."""
    assert _launch(wrong, machine, monkeypatch) == (2, [])
    assert remedy in capsys.readouterr().err
    _, (plan,) = _launch(right, machine, monkeypatch)
    assert words in plan.reason
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("wrong", ["", "--frobnicate s.py", "--nproc two s.py"])
def test_help_is_where_the_error_says(
    wrong: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It lists the options."""
    _launch(wrong, "CPU", monkeypatch)
    assert "see ignite-launch --help" in capsys.readouterr().err
    assert _launch("--help", "CPU", monkeypatch) == (0, [])
    assert "--nproc N" in capsys.readouterr().out


def test_an_option_after_the_script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the script it is the launcher's."""
    _, (plan,) = _launch("s.py --nproc 2", "CPU", monkeypatch)
    assert "the launcher's own options stand before the script" in capsys.readouterr().err
    assert plan.processes == 1
    _, (plan,) = _launch("--nproc 2 s.py", "CPU", monkeypatch)
    assert capsys.readouterr().err == ""
    assert plan.processes == 2


def test_a_taken_port() -> None:
    """Another one is free."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as other:
        plan = RendezvousPlan(STATIC, "127.0.0.1", server.getsockname()[1], 2, 2, 0, "lo")
        free = replace(plan, port=other.getsockname()[1])
        other.close()
        with pytest.raises(LaunchError, match="choose another in --rdzv-endpoint"):
            prepare_rendezvous(plan)
        assert prepare_rendezvous(free).is_host


def test_more_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the higher limit the launcher takes what it needs, and no more."""
    limits = {"hard": 4096, "soft": 1024}

    def set_limits(_: int, new: tuple[int, int]) -> None:
        limits["soft"], limits["hard"] = new

    monkeypatch.setattr(resource, "getrlimit", lambda _: (limits["soft"], limits["hard"]))
    monkeypatch.setattr(resource, "setrlimit", set_limits)
    allow_open_files(64, 4)
    assert limits["soft"] == 1024
    with pytest.raises(LaunchError, match=r"need up to 20736 open files .* is 4096; raise it \(ulimit -Hn\)"):
        allow_open_files(1024, 8)
    limits["hard"] = 1 << 20
    allow_open_files(1024, 8)
    assert limits == {"soft": 20736, "hard": 1 << 20}


def test_a_host_name_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one of the interfaces that are named, gloo does not ask for the name."""
    loopback = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: loopback)
    with pytest.raises(LaunchError, match=r"choose a network with --interface, one of: eth0 \(192\.0\.2\.2\)"):
        check_host_name("192.0.2.2", None)
    check_host_name("192.0.2.2", "eth0")
    _, (plan,) = _launch("--interface eth0 --nproc 2 s.py", "CPU", monkeypatch)
    assert dict(plan.environment)["GLOO_SOCKET_IFNAME"] == "eth0"
