"""Two hosts: network namespaces, each with its own addresses, joined by a virtual cable."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.ignite_launch.support import Launch, Result, launch, wait_until
from tests.settings import seeded
from tests.support import run_script

# By hand and not by an optimizer, whose first step takes each process a second of imports.
_TRAIN = """
import sys, torch, torch.distributed as dist
from ignite_tips import process_group, wrap_model
torch.set_num_threads(1)
seed = int(sys.argv[2])
with process_group():
    torch.manual_seed(seed)
    model = wrap_model(torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)))
    generator = torch.Generator().manual_seed(seed + dist.get_rank())
    for _ in range(20):
        model.zero_grad()
        model(torch.randn(4, 8, generator=generator)).square().mean().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
    if dist.get_rank() == 0:
        torch.save([dist.get_world_size(), *model.module.parameters()], sys.argv[1])
"""
_WAIT = """
import os, pathlib, sys, time
pathlib.Path(f"ready{os.environ['LOCAL_RANK']}").touch()
while True: time.sleep(1)
"""


@dataclass(frozen=True)
class Host:
    """A network namespace."""

    namespace: str
    interface: str
    address: str

    @property
    def prefix(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.namespace)


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts that reach each other alone."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("two network namespaces need root and the command ip")
    number = os.getpid()
    first, second = (Host(f"ignite{number}{end}", f"v{number}{end}", f"10.91.0.{i}") for i, end in ((1, "a"), (2, "b")))
    cable = (
        f"link add {first.interface} netns {first.namespace} type veth peer {second.interface} netns {second.namespace}"
    )
    commands = [f"netns add {first.namespace}", f"netns add {second.namespace}", cable]
    for host in (first, second):
        inside = f"-n {host.namespace}"
        commands += [
            f"{inside} link set lo up",
            f"{inside} link set {host.interface} up",
            f"{inside} addr add {host.address}/24 dev {host.interface}",
        ]
    try:
        for command in commands:
            done = subprocess.run(["ip", *command.split()], capture_output=True, text=True, timeout=10)
            if done.returncode:
                pytest.skip(f"this machine makes no network namespaces: ip {command}: {done.stderr.strip()}")
        yield first, second
    finally:
        for host in (first, second):
            subprocess.run(["ip", "netns", "del", host.namespace], capture_output=True, timeout=10)


def _start(stack: ExitStack, tmp_path: Path, hosts: tuple[Host, Host], *arguments: str) -> list[Launch]:
    """Start a launcher on each host, two processes each; the options are the same but for rank and interface."""
    endpoint = ["--rdzv-endpoint", f"{hosts[0].address}:29511"]
    runs = []
    for rank, host in enumerate(hosts):
        (tmp_path / f"host{rank}").mkdir(exist_ok=True)
        own = ["--nproc", "2", "--node-rank", f"{rank}", "--interface", host.interface, *endpoint]
        runs.append(stack.enter_context(Launch(tmp_path / f"host{rank}", *own, *arguments, prefix=host.prefix)))
    return runs


def _ready(runs: list[Launch]) -> None:
    files = [run.tmp_path / f"ready{rank}" for run in runs for rank in range(2)]
    wait_until(lambda: all(file.exists() for file in files), "the start of four workers", 60)


@pytest.mark.distributed
def test_training_on_two_hosts_equals_that_on_one(tmp_path: Path, hosts: tuple[Host, Host]) -> None:
    """Two hosts of two processes end in the weights of one host with four, static and c10d alike, bit for bit."""
    script = tmp_path / "train.py"
    script.write_text(_TRAIN)
    seed = str(seeded())
    ranks = run_script(script, str(tmp_path / "one.pt"), seed, folder=tmp_path, world_size=4)
    assert [rank.code for rank in ranks] == [0] * 4, ranks
    expected = torch.load(tmp_path / "one.pt")
    assert expected[0] == 4
    for nnodes in ("2", "2:2"):
        with ExitStack() as stack:
            runs = _start(stack, tmp_path, hosts, "--nnodes", nnodes, str(script), str(tmp_path / "two.pt"), seed)
            results = [run.result() for run in runs]
        assert [result.code for result in results] == [0, 0], results
        weights = torch.load(tmp_path / "two.pt")
        assert weights.pop(0) == 4
        assert all(torch.equal(one, two) for one, two in zip(expected[1:], weights, strict=True))
        (tmp_path / "two.pt").unlink()


@pytest.mark.distributed
@pytest.mark.parametrize("nnodes", ["2", "2:2"])
def test_a_launcher_that_dies_ends_the_other_node(tmp_path: Path, hosts: tuple[Host, Host], nnodes: str) -> None:
    """After SIGKILL of node 0's launcher the other ends in words, though its workers talk to nobody."""
    (tmp_path / "wait.py").write_text(_WAIT)
    with ExitStack() as stack:
        runs = _start(stack, tmp_path, hosts, "--nnodes", nnodes, str(tmp_path / "wait.py"))
        _ready(runs)
        runs[0].process.kill()
        result = runs[1].result(60)
    _check_words(result, "the node that the others connect to is gone")


@pytest.mark.distributed
def test_a_host_that_vanishes_ends_the_other(tmp_path: Path, hosts: tuple[Host, Host]) -> None:
    """When the cable is cut, and nobody says goodbye, both nodes end in words within 60 seconds."""
    (tmp_path / "wait.py").write_text(_WAIT)
    cable = ["ip", "-n", hosts[1].namespace, "link", "set", hosts[1].interface]
    with ExitStack() as stack:
        runs = _start(stack, tmp_path, hosts, "--nnodes", "2", str(tmp_path / "wait.py"))
        _ready(runs)
        subprocess.run([*cable, "down"], check=True, timeout=10)
        try:
            results = [run.result(60) for run in runs]
        finally:
            subprocess.run([*cable, "up"], check=True, timeout=10)
    _check_words(results[0], "node 1 has not been heard of for 20 s")
    _check_words(results[1], "the node that the others connect to has not answered for 20 s")


@pytest.mark.distributed
def test_a_failure_on_one_node_is_told_to_the_other(tmp_path: Path, hosts: tuple[Host, Host]) -> None:
    """Both launchers end with the failing worker's exit code, and the other node's says whose it was."""
    (tmp_path / "fail.py").write_text(
        "import os, sys, time\nif os.environ['RANK'] == '3': sys.exit(17)\ntime.sleep(1000)"
    )
    with ExitStack() as stack:
        runs = _start(stack, tmp_path, hosts, "--nnodes", "2", str(tmp_path / "fail.py"))
        results = [run.result() for run in runs]
    assert [result.code for result in results] == [17, 17]
    assert "error: node 1: rank 3 (pid " in results[0].err
    assert "ignite-launch: rank 3 (pid " in results[1].err


def test_srun_needs_no_options(tmp_path: Path, hosts: tuple[Host, Host]) -> None:
    """From the variables of srun's two tasks the launchers find each other, and their workers their ranks."""
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
            launcher = Launch(tmp_path / f"{rank}", *options, prefix=host.prefix, **job, **task)
            runs.append(stack.enter_context(launcher))
        results = [run.result() for run in runs]
    assert [sorted(result.out.splitlines()) for result in results] == [
        ["0 0 0 0 4 4 0", "1 1 1 1 4 4 0"],
        ["2 2 0 0 4 4 1", "3 3 1 1 4 4 1"],
    ], results


@pytest.mark.distributed
def test_a_restart_is_one_of_all_nodes(tmp_path: Path, hosts: tuple[Host, Host]) -> None:
    """A worker that fails on one node starts the workers of both again, though they talk to nobody."""
    (tmp_path / "once.py").write_text(
        "import os, sys, time\n"
        "if os.environ['TORCHELASTIC_RESTART_COUNT'] == '1': sys.exit(0)\n"
        "if os.environ['RANK'] == '3': sys.exit(17)\ntime.sleep(1000)"
    )
    with ExitStack() as stack:
        runs = _start(stack, tmp_path, hosts, "--nnodes", "2", "--max-restarts", "1", str(tmp_path / "once.py"))
        results = [run.result() for run in runs]
    assert [result.code for result in results] == [0, 0]
    assert "another node starts its workers again" in results[0].err
    assert "ended with exit code 17; starting again, 1 of 1" in results[1].err


def test_a_name_that_resolves_to_loopback_is_refused(tmp_path: Path, hosts: tuple[Host, Host]) -> None:
    """Without --interface a host whose own name is on loopback is told so at once, with the interfaces it has."""
    if not socket.gethostbyname(socket.gethostname()).startswith("127."):
        pytest.skip("this host's own name does not resolve to loopback")
    (tmp_path / "wait.py").write_text(_WAIT)
    endpoint = f"{hosts[0].address}:29511"
    options = ["--nnodes", "2", "--node-rank", "0", "--nproc", "2", "--rdzv-endpoint", endpoint]
    with Launch(tmp_path, *options, "wait.py", prefix=hosts[0].prefix) as running:
        result = running.result()
    assert result.code == 2
    assert "resolves to 127.0.0.1, where no other node can reach it: name the network with --interface" in result.err
    assert f"{hosts[0].interface} ({hosts[0].address})" in result.err
    with Launch(tmp_path, *options, "--interface", "eth9", "wait.py", prefix=hosts[0].prefix) as running:
        result = running.result()
    assert result.code == 2
    assert "--interface eth9: there is no such interface with an address; there are: " in result.err


def test_a_port_already_taken_is_said(tmp_path: Path) -> None:
    """Node 0 ends in words when another process listens on the port."""
    (tmp_path / "wait.py").write_text(_WAIT)
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"127.0.0.1:{server.getsockname()[1]}"
        result = launch(
            tmp_path, "--nnodes", "2", "--node-rank", "0", "--nproc", "2", "--rdzv-endpoint", endpoint, "wait.py"
        )
    assert result.code == 1
    assert f"error: port {server and endpoint[10:]} on 127.0.0.1 is taken (Address already in use)" in result.err


def test_ctrl_c_ends_the_wait_for_other_nodes(tmp_path: Path) -> None:
    """A launcher that waits for a node that does not come ends at once, as host of the store and as its client."""
    (tmp_path / "wait.py").write_text(_WAIT)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for rank in ("1", "0"):
        folder = tmp_path / rank
        folder.mkdir()
        options = ["--nnodes", "2", "--node-rank", rank, "--nproc", "2", "--rdzv-endpoint", f"127.0.0.1:{port}"]
        with Launch(folder, *options, str(tmp_path / "wait.py")) as running:
            first_line = folder / "launch.err"
            wait_until(first_line.read_text, "the launcher's first line")
            running.process.send_signal(2)
            result = running.result(20)
        assert result.code == 130
        assert "Traceback" not in result.err


def _check_words(result: Result, words: str) -> None:
    assert result.code == 1
    assert result.err.splitlines()[-1] == f"ignite-launch: error: {words}"
    assert "Traceback" not in result.err
