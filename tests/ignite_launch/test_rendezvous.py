"""Rendezvous: two hosts train as one, and what prevents it is reported."""

import base64
import ctypes
import os
import pickle
import re
import socket
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
import torch
from ignite_launch import rendezvous
from ignite_launch.errors import LaunchError, UsageError
from ignite_launch.nodes import RendezvousPlan
from ignite_launch.rendezvous import host_store, prepare_rendezvous
from torch.distributed import TCPStore
from torch.distributed.elastic.rendezvous import dynamic_rendezvous

from tests.ignite_launch.hosts import WAIT, Host, start_on, start_on_both
from tests.ignite_launch.support import Launch, launch, wait_until
from tests.settings import seeded
from tests.support import run_script

# Without DDP and an optimizer, whose imports take each process seconds.
_TRAIN = """
import sys, torch, torch.distributed as dist
torch.set_num_threads(1)
seed = int(sys.argv[2])
dist.init_process_group("gloo")
torch.manual_seed(seed)
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
generator = torch.Generator().manual_seed(seed + dist.get_rank())
for _ in range(20):
    model.zero_grad()
    model(torch.randn(4, 8, generator=generator)).square().mean().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            dist.all_reduce(parameter.grad)
            parameter -= 0.02 * parameter.grad
if dist.get_rank() == 0:
    torch.save([dist.get_world_size(), *model.parameters()], sys.argv[1])
dist.destroy_process_group()
"""


@pytest.mark.distributed
def test_training_on_two_hosts_equals_that_on_one(tmp_path: Path, hosts: tuple[Host, Host]) -> None:
    """Two hosts with a process each give the weights of one host with two, bit for bit, static and c10d."""
    script = tmp_path / "train.py"
    script.write_text(_TRAIN)
    seed = str(seeded())
    ranks = run_script(script, str(tmp_path / "one.pt"), seed, folder=tmp_path, world_size=2)
    assert [rank.code for rank in ranks] == [0] * 2, ranks
    expected = torch.load(tmp_path / "one.pt")
    assert expected[0] == 2
    for nnodes in ("2", "2:2"):
        with ExitStack() as stack:
            arguments = ["--nnodes", nnodes, "--nproc", "1", str(script), str(tmp_path / "two.pt"), seed]
            runs = start_on_both(stack, tmp_path, hosts, *arguments)
            results = [run.result() for run in runs]
        assert [result.code for result in results] == [0, 0], results
        weights = torch.load(tmp_path / "two.pt")
        assert weights.pop(0) == 2
        assert all(torch.equal(one, two) for one, two in zip(expected[1:], weights, strict=True))
        (tmp_path / "two.pt").unlink()


def test_a_name_that_resolves_to_loopback_is_refused(tmp_path: Path, hosts: tuple[Host, Host]) -> None:
    """If the host's own name is on loopback and there is no --interface, the error lists the interfaces."""
    if not socket.gethostbyname(socket.gethostname()).startswith("127."):
        pytest.skip("this host's own name does not resolve to loopback")
    (tmp_path / "wait.py").write_text(WAIT)
    endpoint = f"{hosts[0].address}:29511"
    options = ["--nnodes", "2", "--node-rank", "0", "--nproc", "2", "--rdzv-endpoint", endpoint]
    with Launch(tmp_path, *options, "wait.py", first=hosts[0].enter) as running:
        result = running.result()
    assert result.code == 2
    assert "resolves to 127.0.0.1, which other nodes can't reach; choose a network with --interface" in result.err
    assert f"{hosts[0].interface} ({hosts[0].address})" in result.err
    with Launch(tmp_path, *options, "--interface", "eth9", "wait.py", first=hosts[0].enter) as running:
        result = running.result()
    assert result.code == 2
    assert "--interface eth9: there is no such interface with an address; available: " in result.err


def _enter_new_network() -> None:
    ctypes.CDLL(None).unshare(0x40000000)  # CLONE_NEWNET; os.unshare() needs Python 3.12


def test_a_machine_without_loopback_is_told(tmp_path: Path) -> None:
    """Where the loopback interface is down, as in a new network namespace, the launcher says so and does not wait."""
    if os.geteuid() != 0:
        pytest.skip("a new network namespace needs root")
    (tmp_path / "wait.py").write_text(WAIT)
    with Launch(tmp_path, "--nproc", "2", "wait.py", first=_enter_new_network) as running:
        result = running.result()
    assert result.code == 1
    assert re.search("error: cannot reach this host at 127.0.0.1: (Network is unreachable|Cannot assign)", result.err)


def test_a_taken_port_is_an_error(tmp_path: Path) -> None:
    """Node 0 exits with a message if another process listens on the port."""
    (tmp_path / "wait.py").write_text(WAIT)
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"127.0.0.1:{server.getsockname()[1]}"
        result = launch(
            tmp_path, "--nnodes", "2", "--node-rank", "0", "--nproc", "2", "--rdzv-endpoint", endpoint, "wait.py"
        )
    assert result.code == 1
    assert f"error: port {server and endpoint[10:]} on 127.0.0.1 is taken (Address already in use)" in result.err


def test_ctrl_c_ends_the_wait_for_other_nodes(tmp_path: Path) -> None:
    """A launcher that waits for a missing node exits at once, both as host of the store and as client."""
    (tmp_path / "wait.py").write_text(WAIT)
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


@pytest.mark.parametrize("nnodes", ["2", "1:2"])
def test_ctrl_c_ends_the_wait_for_a_service_that_is_silent(tmp_path: Path, nnodes: str) -> None:
    """A launcher whose endpoint is another service, which accepts and never answers, exits at once on Ctrl-C."""
    (tmp_path / "wait.py").write_text(WAIT)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        endpoint = f"127.0.0.1:{server.getsockname()[1]}"
        options = ["--nnodes", nnodes, "--node-rank", "1", "--nproc", "2", "--rdzv-endpoint", endpoint]
        with Launch(tmp_path, *options, "wait.py") as running:
            server.accept()[0].close()  # a look at the port
            with server.accept()[0]:  # the store's client
                running.process.send_signal(2)
                result = running.result(20)
    assert result.code == 130
    assert "Traceback" not in result.err


@pytest.mark.parametrize("nnodes", ["2", "1:2"])
def test_a_service_that_is_silent_is_an_error(tmp_path: Path, nnodes: str) -> None:
    """The wait for an answer at the endpoint ends with a sentence, here after 0.3 s instead of 60."""
    script = tmp_path / "impatient.py"
    script.write_text(
        "import sys\nfrom ignite_launch import cli, rendezvous\n"
        "rendezvous._ANSWER_TIMEOUT = 0.3\ncli.main(sys.argv[1:])"
    )
    (tmp_path / "wait.py").write_text(WAIT)
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"127.0.0.1:{server.getsockname()[1]}"
        options = ["--nnodes", nnodes, "--node-rank", "1", "--nproc", "2", "--rdzv-endpoint", endpoint]
        (ended,) = run_script(script, *options, str(tmp_path / "wait.py"), folder=tmp_path)
    assert ended.code == 1, ended.err
    assert f"error: what listens at {endpoint} does not answer as a launcher; choose a free port" in ended.err


def test_node_counts_that_differ_are_an_error(tmp_path: Path) -> None:
    """A node that is given another --nnodes than the first exits with a sentence, instead of waiting for more nodes."""
    (tmp_path / "wait.py").write_text(WAIT)
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"127.0.0.1:{server.getsockname()[1]}"
    for rank in ("0", "1"):
        (tmp_path / rank).mkdir()
    options = ["--nproc", "2", "--rdzv-endpoint", endpoint, str(tmp_path / "wait.py")]
    with (
        Launch(tmp_path / "0", "--nnodes", "3", "--node-rank", "0", *options) as first,
        Launch(tmp_path / "1", "--nnodes", "2", "--node-rank", "1", *options) as second,
    ):
        result = second.result()
        assert first.process.poll() is None  # it waits for nodes that agree with it, whoever came first
        first.process.kill()
        first.result()
    assert result.code == 2, result.err
    assert "--nnodes must be the same on all nodes, got 2 here and 3 on 127.0.0.1" in result.err


class _Bomb:
    """Opens a file as soon as it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self._path), "w")


@pytest.mark.parametrize("name", ["open", "os.mkdir"])
def test_a_strangers_pickle_is_not_executed(tmp_path: Path, name: str) -> None:
    """In an elastic run the launcher refuses a state in the store that is not made of torch's rendezvous classes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    rendezvous = prepare_rendezvous(RendezvousPlan("c10d", "127.0.0.1", port, 1, 2, 0, "lo"))
    stranger = TCPStore("127.0.0.1", port, wait_for_workers=False)
    state = pickle.dumps(_Bomb(tmp_path / "opened"))
    if name == "os.mkdir":  # by way of what torch's own module imports
        module = dynamic_rendezvous.__name__.encode()
        state = b"\x80\x04\x8c" + bytes([len(module)]) + module + b"\x8c\x08os.mkdir\x93"
        state += b"\x8c" + bytes([len(f"{tmp_path}/opened")]) + f"{tmp_path}/opened".encode() + b"\x85R."
    stranger.set("torch.rendezvous.ignite-launch", base64.b64encode(state))
    with pytest.raises(LaunchError, match="the rendezvous store holds a state that no launcher writes"):
        rendezvous.handler.next_rendezvous()
    assert not (tmp_path / "opened").exists()


def test_node_0_decides_how_many_nodes_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that asks before node 0 has said its number waits for it, until a limit, and does not set it."""
    store, silent = host_store("127.0.0.1"), host_store("127.0.0.1")
    monkeypatch.setattr(rendezvous.time, "sleep", lambda _: rendezvous._check_node_counts(store, "3", is_host=True))
    with pytest.raises(UsageError, match=r"must be the same on all nodes, got 2 here and 3 on 127[.]0"):
        rendezvous._check_node_counts(store, "2", is_host=False)
    monkeypatch.setattr(rendezvous, "_ANSWER_TIMEOUT", -1)
    with pytest.raises(LaunchError, match="does not answer as a launcher; choose a free port"):
        rendezvous._check_node_counts(silent, "2", is_host=False)


def test_a_host_that_ends_while_nodes_join_is_an_error(tmp_path: Path) -> None:
    """A node that waits for others exits with a sentence once the node that hosts the rendezvous is gone."""
    (tmp_path / "wait.py").write_text(WAIT)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    endpoint = f"127.0.0.1:{port}"
    options = ["--nnodes", "3", "--nproc", "2", "--rdzv-endpoint", endpoint, str(tmp_path / "wait.py")]
    for rank in ("0", "1"):
        (tmp_path / rank).mkdir()
    with (
        Launch(tmp_path / "0", "--node-rank", "0", *options) as first,
        Launch(tmp_path / "1", "--node-rank", "1", *options) as second,
    ):
        store = TCPStore("127.0.0.1", port, timeout=timedelta(seconds=60), wait_for_workers=False)
        wait_until(lambda: store.add("ignite-launch/join/joined", 0) == 2, "both nodes to join", 60)
        first.process.kill()
        first.result()
        result = second.result()
    assert result.code == 1
    assert f"error: node 0, at {endpoint}, ended before all nodes had joined" in result.err
    assert "Traceback" not in result.err


@pytest.mark.distributed
def test_a_node_may_join_an_elastic_run_later(tmp_path: Path, hosts: tuple[Host, Host]) -> None:
    """With --nnodes 1:2 the run begins on one host and goes on with four workers once the second host joins."""
    script = tmp_path / "elastic.py"
    script.write_text(
        "import os, pathlib, time\npathlib.Path(f\"size{os.environ['WORLD_SIZE']}\").touch()\n"
        "while os.environ['WORLD_SIZE'] != '4': time.sleep(0.1)"
    )
    with ExitStack() as stack:
        first = start_on(stack, tmp_path, hosts, 0, "--nnodes", "1:2", str(script))
        wait_until((tmp_path / "host0" / "size2").exists, "the start of two workers", 90)  # torch waits 30 s for more
        second = start_on(stack, tmp_path, hosts, 1, "--nnodes", "1:2", str(script))
        results = [run.result() for run in (first, second)]
    assert [result.code for result in results] == [0, 0], results
    assert (tmp_path / "host1" / "size4").exists()


def test_a_single_node_listens_on_loopback_only(tmp_path: Path) -> None:
    """Nothing outside the host reaches a port of a launcher that runs on one node."""
    (tmp_path / "wait.py").write_text(WAIT)
    with Launch(tmp_path, "--nproc", "2", "wait.py") as running:
        wait_until((tmp_path / "ready1").exists, "the start of the workers")
        sockets = psutil.Process(running.process.pid).net_connections("tcp")
        listening = {connection.laddr.ip for connection in sockets if connection.status == psutil.CONN_LISTEN}
        running.process.kill()
        running.result()
    assert listening == {"127.0.0.1"}
