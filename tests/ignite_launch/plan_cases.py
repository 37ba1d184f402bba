"""Table of plans: command lines, machines and inherited variables, each with the expected plan or error."""

from dataclasses import dataclass, field
from typing import Any

from tests.ignite_launch.nvml import gpu

__all__ = ["CASES", "MACHINES", "Case"]

_A, _B, _C, _D = "GPU-aa11", "GPU-ab22", "GPU-cc33", "GPU-dd44"
_M1, _M2 = "MIG-1111", "MIG-2222"
MACHINES = {
    "none": None,
    "one": [gpu(_A)],
    "two": [gpu(_A), gpu(_B)],
    "four": [gpu(_A, free=9000), gpu(_B, free=8000, processes=1), gpu(_C, free=7000), gpu(_D, free=9500)],
    "sliced": [gpu(_A), gpu(_B, kind="mig"), gpu(_M1, free=3000, kind="slice"), gpu(_M2, free=4000, kind="slice")],
    "slice": [gpu(_A, kind="mig"), gpu(_M1, kind="slice")],
    "silent": [gpu(_A, processes="?", free="?"), gpu(_B)],
}


@dataclass(frozen=True)
class Case:
    """A command line for ``s.py`` on a machine with inherited variables, and the expected plan or error."""

    options: str
    machine: str
    sentence: str = ""
    environ: dict[str, str] = field(default_factory=dict)
    strategy: str = "single"
    gpus: str = ""
    processes: int = 1
    variables: dict[str, str | None] = field(default_factory=dict)
    rendezvous: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    unset: tuple[str, ...] = ()
    max_restarts: int = 0

    def __str__(self) -> str:
        programs = {
            "SLURM_STEP_ID": "srun",
            "OMPI_COMM_WORLD_SIZE": "Open MPI",
            "PMI_SIZE": "MPICH",
            "PET_NNODES": "pod",
        }
        inherited = "".join(f"{program} " for name, program in programs.items() if name in self.environ)
        inherited = inherited or "".join(f"{name}={value} " for name, value in self.environ.items())
        return f"{self.machine}: {inherited}{self.options or 'no option'}"


def _visible(text: str, order: str | None = None) -> dict[str, str]:
    return {"CUDA_VISIBLE_DEVICES": text} | ({"CUDA_DEVICE_ORDER": order} if order else {})


_DDP = {"IGNITE_LAUNCH_STRATEGY": "ddp"}
_NO_GPU = "no GPU is available: no NVIDIA driver found"
_TWO = "available: 0 (NVIDIA L4, 20.0 GiB free, 0 processes), 1 (NVIDIA L4, 20.0 GiB free, 0 processes)"
_MEET = "--rdzv-endpoint n0:29500"

CASES = [
    # What auto chooses.
    Case("", "none", reason="single (auto: no GPU): 1 process on the CPU (no NVIDIA driver found)"),
    Case("", "none", variables={"CUDA_VISIBLE_DEVICES": "", "IGNITE_LAUNCH_BACKEND": "gloo", "OMP_NUM_THREADS": None}),
    Case("", "one", gpus="0", reason="single (auto: one GPU): 1 process on GPU 0 (NVIDIA L4)"),
    Case("", "one", gpus="0", variables={"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "IGNITE_LAUNCH_BACKEND": "nccl"}),
    Case("", "two", strategy="ddp", gpus="0,1", processes=2, variables={"OMP_NUM_THREADS": "4", **_DDP}),
    Case("", "four", strategy="ddp", gpus="0,1,2,3", processes=4, reason="ddp (auto: 4 GPUs): 4 processes on GPUs 0,1"),
    Case("", "slice", gpus=_M1, variables={"CUDA_VISIBLE_DEVICES": _M1}),
    Case(
        "",
        "sliced",
        sentence=f"ddp would use 0, {_M1}, {_M2}, but CUDA gives a process one MIG slice and NCCL can't connect slices",
    ),
    Case("--nproc 2", "none", strategy="ddp", processes=2, variables={"IGNITE_LAUNCH_BACKEND": "gloo"}),
    Case("--nproc 1", "none", reason="single (auto: --nproc 1): 1 process on the CPU"),
    Case("--nproc 1", "two", gpus="0"),
    Case("--nproc 2", "four", strategy="ddp", gpus="0,1", processes=2),
    Case("--nproc 3", "two", "--nproc 3 is more processes than the 2 GPUs (0, 1); --gpus none trains on the CPU"),
    Case("--nproc 16", "none", strategy="ddp", processes=16, variables={"OMP_NUM_THREADS": "1"}),
    Case("--nproc 3", "none", strategy="ddp", processes=3, variables={"OMP_NUM_THREADS": "2"}),
    Case(
        "--nproc 2",
        "none",
        environ={"OMP_NUM_THREADS": "7"},
        strategy="ddp",
        processes=2,
        variables={"OMP_NUM_THREADS": None},
    ),
    # Naming GPUs.
    Case("--gpus 1", "two", gpus="1", variables={"CUDA_VISIBLE_DEVICES": "1"}),
    Case("--gpus 3,1", "four", strategy="ddp", gpus="3,1", processes=2),
    Case("--gpus 01", "two", gpus="1"),
    Case(f"--gpus {_C}", "four", gpus="2"),
    Case("--gpus GPU-c", "four", gpus="2"),
    Case("--gpus GPU-a", "four", "'GPU-a' is the start of more than one UUID: GPU-aa11, GPU-ab22"),
    Case(f"--gpus {_M2}", "sliced", gpus=_M2),
    Case("--gpus 0", "sliced", gpus="0"),
    Case("--gpus 1", "sliced", f"GPU 1 is split into MIG slices; name one of {_M1}, {_M2}"),
    Case(f"--gpus {_M1},{_M2}", "sliced", f"ddp would use {_M1}, {_M2}, but CUDA gives a process one MIG slice"),
    Case(
        f"--strategy dp --gpus {_M1},{_M2}",
        "sliced",
        f"dp would use {_M1}, {_M2}, but CUDA gives a process one MIG slice",
    ),
    Case(f"--gpus 0,{_M1}", "sliced", "mixes MIG slices and numbers"),
    Case(f"--gpus 0,{_B}", "two", "mixes GPU UUIDs and numbers"),
    Case("--gpus all", "two", strategy="ddp", gpus="0,1", processes=2),
    Case("--gpus all", "none", f"--gpus all: {_NO_GPU}"),
    Case(
        "--gpus none",
        "two",
        reason="single (auto: no GPU): 1 process on the CPU (--gpus none)",
        variables={"CUDA_VISIBLE_DEVICES": ""},
    ),
    Case("--gpus none --nproc 2", "two", strategy="ddp", processes=2, variables={"IGNITE_LAUNCH_BACKEND": "gloo"}),
    Case("--gpus free:1", "four", gpus="3"),
    Case("--gpus free:2", "four", strategy="ddp", gpus="0,3", processes=2),
    Case(
        "--gpus free:4",
        "four",
        "--gpus free:4 needs 4 idle GPUs, but 3 of 4 have no process on them; available: 0 (NVIDIA L4, 8.8 GiB",
    ),
    Case("--gpus free:1", "silent", gpus="1"),
    Case("--gpus free:2", "silent", "1 of 2 have no process on them; available: 0 (NVIDIA L4, ? free, ? processes)"),
    Case("--gpus free:0", "two", "free: needs a number > 0"),
    Case("--gpus free", "two", "free: needs a number > 0"),
    Case("--gpus free:1", "none", f"0 of 0 have no process on them; {_NO_GPU}"),
    Case("--gpus 0,0", "two", f"--gpus 0,0 names GPU 0 twice; {_TWO}"),
    Case(f"--gpus {_A},GPU-aa", "two", "names GPU 0 twice"),
    Case("--gpus 2", "two", f"--gpus 2: there is no GPU 2; {_TWO}"),
    Case("--gpus GPU-zz", "two", "there is no GPU GPU-zz"),
    Case("--gpus x", "two", "'x' is not a GPU number or a GPU-… or MIG-… UUID"),
    Case("--gpus 0;1", "two", "'0;1' is not a GPU number"),
    Case("--gpus 0,,1", "two", "'' is not a GPU number"),
    Case("--gpus -1", "two", "'-1' is not a GPU number"),
    Case("--gpus 0", "none", f"--gpus 0: there is no GPU 0; {_NO_GPU}"),
    # Strategies.
    Case("--strategy single", "four", gpus="0"),
    Case("--strategy single", "none"),
    Case("--strategy single --gpus 0,1", "four", "single uses one GPU, but --gpus 0,1 names 2"),
    Case("--strategy single --nproc 2", "none", "--strategy single is one process, but --nproc is 2"),
    Case("--strategy dp", "two", strategy="dp", gpus="0,1", variables={"OMP_NUM_THREADS": None}),
    Case("--strategy dp --gpus 3,0,1", "four", strategy="dp", gpus="3,0,1"),
    Case("--strategy dp", "one", "--strategy dp needs at least two GPUs, but there is one GPU; use --strategy single"),
    Case("--strategy dp", "none", "but there is no GPU (no NVIDIA driver found)"),
    Case("--strategy dp --nproc 2", "two", "--strategy dp is one process, but --nproc is 2"),
    Case("--strategy ddp", "one", strategy="ddp", gpus="0"),
    Case("--strategy ddp", "none", "ddp on the CPU needs --nproc"),
    Case("--strategy ddp --gpus 0,1 --nproc 1", "four", "--gpus 0,1 names 2 GPUs, but --nproc 1 would leave some idle"),
    # Inherited variables.
    Case(
        "",
        "four",
        environ=_visible("2,1"),
        strategy="ddp",
        gpus="2,1",
        processes=2,
        reason="from CUDA_VISIBLE_DEVICES=2,1 in nvidia-smi's order",
    ),
    Case("--gpus 2", "four", environ=_visible("2,1"), gpus="2"),
    Case("--gpus 0", "four", "there is no GPU 0; CUDA_VISIBLE_DEVICES=2,1 allows: 2 (", environ=_visible("2,1")),
    Case("--gpus free:1", "four", environ=_visible("0,1"), gpus="0"),
    Case("", "four", environ=_visible(f"{_C}"), gpus="2"),
    Case("", "two", environ=_visible(""), reason="the CPU (CUDA_VISIBLE_DEVICES= hides every GPU)"),
    Case("", "two", environ=_visible("-1"), reason="the CPU (CUDA_VISIBLE_DEVICES=-1 hides every GPU)"),
    Case("--gpus 0", "two", "no GPU is available: CUDA_VISIBLE_DEVICES=-1 hides every GPU", environ=_visible("-1")),
    Case("", "two", "CUDA_VISIBLE_DEVICES=0,0 names GPU 0 twice", environ=_visible("0,0")),
    Case("", "two", "CUDA_VISIBLE_DEVICES=0,x: 'x' is not a GPU number", environ=_visible("0,x")),
    Case("", "two", "CUDA_VISIBLE_DEVICES=0,-1,1: '-1' is not a GPU number", environ=_visible("0,-1,1")),
    Case("", "two", "mixes GPU UUIDs and numbers", environ=_visible(f"{_A},1")),
    Case("", "none", environ=_visible("0")),
    Case(
        "--gpus 1",
        "two",
        environ={"CUDA_DEVICE_ORDER": "FASTEST_FIRST"},
        gpus="1",
        variables={"CUDA_VISIBLE_DEVICES": _B, "CUDA_DEVICE_ORDER": "FASTEST_FIRST"},
    ),
    Case(
        "",
        "two",
        "uses numbers in CUDA_DEVICE_ORDER=FASTEST_FIRST, an order that only CUDA knows",
        environ=_visible("1", "FASTEST_FIRST"),
    ),
    Case("", "two", environ=_visible(_B, "FASTEST_FIRST"), gpus="1", variables={"CUDA_VISIBLE_DEVICES": _B}),
    Case(
        "",
        "none",
        environ={"RANK": "3", "WORLD_SIZE": "8", "MASTER_ADDR": "x", "PATH": "p"},
        unset=("RANK", "WORLD_SIZE", "MASTER_ADDR"),
    ),
    # Several nodes.
    Case(
        f"--nnodes 2 --node-rank 1 {_MEET}",
        "one",
        strategy="ddp",
        gpus="0",
        rendezvous={"kind": "static", "host": "n0", "port": 29500, "node_rank": 1, "max_nodes": 2},
    ),
    Case(
        f"--nnodes 2 --node-rank 0 --nproc 2 --interface eth1 {_MEET}",
        "none",
        strategy="ddp",
        processes=2,
        variables={"GLOO_SOCKET_IFNAME": "eth1", "NCCL_SOCKET_IFNAME": "eth1"},
    ),
    Case(
        f"--nnodes 1:3 --nproc 2 {_MEET}",
        "none",
        strategy="ddp",
        processes=2,
        rendezvous={"kind": "c10d", "min_nodes": 1, "max_nodes": 3, "node_rank": None},
    ),
    Case(
        "--nnodes 2 --nproc 2 --node-rank 0 --rdzv-endpoint [::1]:29500",
        "none",
        strategy="ddp",
        processes=2,
        rendezvous={"host": "::1", "port": 29500},
    ),
    Case(f"--nnodes 2 {_MEET}", "one", "--nnodes 2 needs --node-rank, this node's rank from 0 to 1"),
    Case(f"--nnodes 2 --node-rank 2 {_MEET}", "one", "--node-rank must be below the number of nodes, 2, got 2"),
    Case("--nnodes 2 --node-rank 0", "one", "several nodes need --rdzv-endpoint HOST:PORT"),
    Case(
        "--nnodes 2 --node-rank 0 --rdzv-endpoint n0",
        "one",
        "--rdzv-endpoint must be HOST:PORT with a port from 1 to 65535, got 'n0'",
    ),
    Case("--nnodes 2 --node-rank 0 --rdzv-endpoint n0:99999", "one", "with a port from 1 to 65535, got 'n0:99999'"),
    Case("--node-rank 1", "one", "--node-rank 1 is for several nodes; give their number with --nnodes"),
    Case(_MEET, "one", "--rdzv-endpoint n0:29500 is for several nodes"),
    Case(f"--strategy dp --nnodes 2 --node-rank 0 {_MEET}", "two", "--strategy dp runs on one node"),
    Case(f"--nnodes 2 --node-rank 0 {_MEET}", "none", "ddp on the CPU needs --nproc"),
]
