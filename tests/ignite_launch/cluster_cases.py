"""Table of plans of a launcher that a cluster starts, with the variables that it sets."""

from tests.ignite_launch.plan_cases import Case

__all__ = ["CLUSTER_CASES"]

_SRUN = {
    "SLURM_JOB_ID": "4242",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_NODEID": "1",
}
_OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
}
_MPICH = {"PMI_SIZE": "2", "PMI_RANK": "1", "MPI_LOCALNRANKS": "1", "MPI_LOCALRANKID": "0"}
_MASTER = {"MASTER_ADDR": "n0", "MASTER_PORT": "29500"}
# As Kubeflow's Training operator sets them in the first worker's pod of a PyTorchJob: without and with elasticPolicy.
_POD = {
    "PET_NNODES": "3",
    "PET_NODE_RANK": "1",
    "PET_NPROC_PER_NODE": "auto",
    "PET_MASTER_ADDR": "train-master-0",
    "PET_MASTER_PORT": "23456",
    "MASTER_ADDR": "train-master-0",
    "MASTER_PORT": "23456",
    "WORLD_SIZE": "3",
    "RANK": "1",
}
_ELASTIC_POD = {
    "PET_NNODES": "1:3",
    "PET_NPROC_PER_NODE": "2",
    "PET_MAX_RESTARTS": "5",
    "PET_RDZV_BACKEND": "c10d",
    "PET_RDZV_ENDPOINT": "train-worker-0:23456",
}
_POD_NAMES = (*(name for name in _POD if name.startswith("PET")), "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK")

CLUSTER_CASES = [
    # SLURM.
    Case(
        "",
        "two",
        environ=_SRUN,
        strategy="ddp",
        gpus="0,1",
        processes=2,
        rendezvous={"kind": "static", "host": "gpu07", "port": 24242, "node_rank": 1, "min_nodes": 2, "max_nodes": 2},
    ),
    Case(
        "",
        "two",
        environ=_SRUN,
        strategy="ddp",
        gpus="0,1",
        processes=2,
        reason="on each of 2 nodes, rendezvous at gpu07:24242, from srun's variables",
    ),
    Case(
        "--rdzv-endpoint h:1",
        "two",
        environ=_SRUN,
        strategy="ddp",
        gpus="0,1",
        processes=2,
        rendezvous={"host": "h", "port": 1, "node_rank": 1},
    ),
    Case("", "one", environ=_SRUN | {"SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NUM_TASKS": "1"}, gpus="0"),
    Case("", "one", "srun started 4 tasks on 2 nodes", environ=_SRUN | {"SLURM_STEP_NUM_TASKS": "4"}),
    Case(
        "",
        "one",
        "cannot read srun's variables: SLURM_STEP_NUM_NODES must be an integer >= 1, got ''",
        environ={"SLURM_STEP_ID": "0"},
    ),
    Case("", "one", environ={"SLURM_JOB_ID": "1", "SLURM_PROCID": "0"}, gpus="0"),
    # mpirun.
    *(
        Case(
            "",
            "two",
            environ=variables | _MASTER,
            strategy="ddp",
            gpus="0,1",
            processes=2,
            rendezvous={"kind": "static", "host": "n0", "port": 29500, "node_rank": 1, "max_nodes": 2},
            reason="on each of 2 nodes, rendezvous at n0:29500, from mpirun's variables",
            unset=tuple(_MASTER),
        )
        for variables in (_OPEN_MPI, _MPICH)
    ),
    *(
        Case(
            "--rdzv-endpoint h:1",
            "one",
            environ=variables,
            strategy="ddp",
            gpus="0",
            rendezvous={"host": "h", "port": 1, "node_rank": 1, "max_nodes": 2},
        )
        for variables in (_OPEN_MPI, _MPICH)
    ),
    Case(
        "--nnodes 3 --node-rank 2",
        "one",
        environ=_OPEN_MPI | _MASTER,
        strategy="ddp",
        gpus="0",
        rendezvous={"host": "n0", "node_rank": 2, "max_nodes": 3},
        unset=tuple(_MASTER),
    ),
    Case("", "one", environ={"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, gpus="0"),
    Case("", "one", environ={"PMI_SIZE": "2", "PMI_RANK": "1"}, gpus="0"),  # srun --mpi=pmi2 sets them as well
    Case("", "one", "mpirun started 4 tasks on this node", environ=_MPICH | {"MPI_LOCALNRANKS": "4"}),
    Case("", "one", "where HOST is node 0; mpirun's variables say that there are several", environ=_OPEN_MPI),
    # Kubernetes: torchrun's options as variables.
    Case(
        "",
        "two",
        environ=_POD,
        strategy="ddp",
        gpus="0,1",
        processes=2,
        rendezvous={"kind": "static", "host": "train-master-0", "port": 23456, "node_rank": 1, "max_nodes": 3},
        reason="on each of 3 nodes, rendezvous at train-master-0:23456, from the PET_ variables",
        unset=_POD_NAMES,
    ),
    Case(
        "",
        "none",
        environ=_ELASTIC_POD,
        strategy="ddp",
        processes=2,
        max_restarts=5,
        rendezvous={"kind": "c10d", "host": "train-worker-0", "min_nodes": 1, "max_nodes": 3, "node_rank": None},
        unset=tuple(_ELASTIC_POD),
    ),
    Case(
        "--nproc 1 --max-restarts 0 --nnodes 2:4",
        "none",
        environ=_ELASTIC_POD,
        strategy="ddp",
        rendezvous={"kind": "c10d", "min_nodes": 2, "max_nodes": 4},
        unset=tuple(_ELASTIC_POD),
    ),
    # A fixed number under elasticPolicy: ranks are still assigned, since the host need not be the pod of rank 0.
    Case(
        "",
        "none",
        environ=_ELASTIC_POD | {"PET_NNODES": "2", "PET_NODE_RANK": "1"},
        strategy="ddp",
        processes=2,
        max_restarts=5,
        rendezvous={"kind": "c10d", "min_nodes": 2, "max_nodes": 2, "node_rank": None},
        unset=(*_ELASTIC_POD, "PET_NODE_RANK"),
    ),
    Case(
        "",
        "none",
        environ=_POD | {"PET_NNODES": "1", "PET_NODE_RANK": "0", "PET_NPROC_PER_NODE": "4"},
        strategy="ddp",
        processes=4,
        rendezvous={"kind": "local"},
        reason="ddp (auto: PET_NPROC_PER_NODE 4): 4 processes on the CPU",
        unset=_POD_NAMES,
    ),
    Case(
        "--gpus 1",
        "two",
        environ={"PET_NNODES": "1", "PET_NPROC_PER_NODE": "2"},
        gpus="1",
        unset=("PET_NNODES", "PET_NPROC_PER_NODE"),
    ),
    Case(
        "",
        "one",
        "PET_NPROC_PER_NODE 2 is more processes than the 1 GPU (0)",
        environ={"PET_NNODES": "1", "PET_NPROC_PER_NODE": "2"},
    ),
    Case("", "one", "PET_NNODES must be N or MIN:MAX, got '0'", environ=_POD | {"PET_NNODES": "0"}),
    Case(
        "", "one", "PET_NPROC_PER_NODE must be an integer >= 1, got 'cpu'", environ=_POD | {"PET_NPROC_PER_NODE": "cpu"}
    ),
    Case("", "one", "PET_RDZV_ENDPOINT must be HOST:PORT", environ=_POD | {"PET_RDZV_ENDPOINT": "n0"}),
    # The innermost program counts: mpirun uses srun, and torchrun's variables are set on purpose.
    Case(
        "",
        "one",
        environ=_SRUN | _OPEN_MPI | _POD,
        strategy="ddp",
        gpus="0",
        rendezvous={"host": "train-master-0", "max_nodes": 3},
        unset=_POD_NAMES,
    ),
    Case(
        "",
        "one",
        environ=_SRUN | _OPEN_MPI | _MASTER,
        strategy="ddp",
        gpus="0",
        rendezvous={"host": "n0", "node_rank": 1},
        unset=tuple(_MASTER),
    ),
]
