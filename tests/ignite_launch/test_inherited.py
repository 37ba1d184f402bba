"""Launchers that a cluster starts: its variables stand for options."""

import socket
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from ignite_launch.errors import LaunchError
from ignite_launch.nodes import STATIC, RendezvousPlan
from ignite_launch.rendezvous import prepare_rendezvous

from tests.ignite_launch.hosts import Host
from tests.ignite_launch.support import Launch


def test_srun_needs_no_options(tmp_path: Path, hosts: tuple[Host, Host]) -> None:
    """With the variables of srun's two tasks, the launchers find each other and the workers get their ranks."""
    (tmp_path / "ranks.py").write_text(
        "import os, sys\nsys.stdout.write(' '.join(os.environ[n] for n in sys.argv[1:]) + '\\n')"
    )
    names = ["RANK", "SLURM_PROCID", "LOCAL_RANK", "SLURM_LOCALID", "WORLD_SIZE", "SLURM_NTASKS", "GROUP_RANK"]
    job = {"SLURM_JOB_ID": "9", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NUM_TASKS": "2"}
    job |= {"SLURM_STEP_NODELIST": f"{hosts[0].address},{hosts[1].address}", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0"}
    with ExitStack() as stack:
        runs = []
        for rank, host in enumerate(hosts):
            (tmp_path / f"{rank}").mkdir()
            task = {"SLURM_NODEID": f"{rank}", "SLURM_PROCID": f"{rank}"}
            options = ["--nproc", "2", "--interface", host.interface, str(tmp_path / "ranks.py"), *names]
            launcher = Launch(tmp_path / f"{rank}", *options, first=host.enter, **job, **task)
            runs.append(stack.enter_context(launcher))
        results = [run.result() for run in runs]
    assert [sorted(result.out.splitlines()) for result in results] == [
        ["0 0 0 0 4 4 0", "1 1 1 1 4 4 0"],
        ["2 2 0 0 4 4 1", "3 3 1 1 4 4 1"],
    ], results


@pytest.mark.parametrize("program", ["mpirun", "Kubernetes"])
def test_a_clusters_variables_need_no_options(tmp_path: Path, program: str) -> None:
    """With what mpirun or an operator sets for two nodes, the launchers find each other and the workers get ranks."""
    script = "import os, sys\nsys.stdout.write(' '.join(os.environ.get(name, '-') for name in sys.argv[1:]))"
    (tmp_path / "ranks.py").write_text(script)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = f"{server.getsockname()[1]}"
    names = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "GROUP_RANK", "PET_NNODES"]
    with ExitStack() as stack:
        runs = []
        for node in ("0", "1"):
            (tmp_path / node).mkdir()
            variables = {
                "mpirun": {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": node, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}
                | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
                "Kubernetes": {"PET_NNODES": "2", "PET_NODE_RANK": node, "PET_NPROC_PER_NODE": "1"}
                | {"PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": port, "WORLD_SIZE": "2", "RANK": node},
            }[program]
            options = ["--nproc", "1", str(tmp_path / "ranks.py"), *names]
            runs.append(stack.enter_context(Launch(tmp_path / node, *options, **variables)))
        results = [run.result() for run in runs]
    assert [result.out for result in results] == ["0 0 2 0 -", "1 0 2 1 -"], results


def test_a_name_that_a_cluster_publishes_later_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Node 0's name, taken from variables, may resolve only after a while; one that was typed must do at once."""
    loopback = [(socket.AF_INET, socket.SOCK_DGRAM, 0, "", ("127.0.0.1", 0))]
    answers = iter([socket.gaierror(-2, "Name or service not known")] * 2)

    def resolve(*_: object, **__: object) -> list[tuple[object, ...]]:
        for error in answers:
            raise error
        return loopback

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    plan = RendezvousPlan(STATIC, "train-0.train", port, 2, 2, 0, None, "the PET_ variables")
    assert prepare_rendezvous(plan).address == "127.0.0.1"
    assert capsys.readouterr().err == "ignite-launch: waiting until the name of node 0, train-0.train, resolves\n"
    answers = iter([socket.gaierror(-2, "Name or service not known")])
    with pytest.raises(LaunchError, match=r"cannot resolve node 0's name, 'train-0\.train': Name or service"):
        prepare_rendezvous(replace(plan, source=""))
