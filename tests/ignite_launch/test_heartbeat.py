"""Nodes learn that another node failed, restarted or stopped responding."""

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from ignite_launch import heartbeat
from ignite_launch.rendezvous import host_store

from tests.ignite_launch.hosts import WAIT, Host, start_on_both, wait_ready_on_both
from tests.ignite_launch.support import Result, wait_until


@pytest.mark.distributed
@pytest.mark.parametrize("nnodes", ["2", "2:2"])
def test_a_launcher_that_dies_ends_the_other_node(tmp_path: Path, hosts: tuple[Host, Host], nnodes: str) -> None:
    """After SIGKILL of node 0's launcher the other one exits with a message, even if its workers don't communicate."""
    (tmp_path / "wait.py").write_text(WAIT)
    with ExitStack() as stack:
        runs = start_on_both(stack, tmp_path, hosts, "--nnodes", nnodes, str(tmp_path / "wait.py"))
        wait_ready_on_both(runs)
        runs[0].process.kill()
        result = runs[1].result(60)
    _check_message(result, "lost the connection to the node that hosts the rendezvous")


@pytest.mark.distributed
def test_a_host_that_vanishes_ends_the_other(tmp_path: Path, hosts: tuple[Host, Host]) -> None:
    """After the cable is cut, both nodes exit with a message within 60 seconds."""
    (tmp_path / "wait.py").write_text(WAIT)
    with ExitStack() as stack:
        runs = start_on_both(stack, tmp_path, hosts, "--nnodes", "2", str(tmp_path / "wait.py"))
        wait_ready_on_both(runs)
        hosts[1].set_cable("down")
        try:
            results = [run.result(60) for run in runs]
        finally:
            hosts[1].set_cable("up")
    _check_message(results[0], "no heartbeat from node 1 for 20 s")
    _check_message(results[1], "the node that hosts the rendezvous has not answered for 20 s")


@pytest.mark.distributed
def test_a_failure_on_one_node_is_told_to_the_other(tmp_path: Path, hosts: tuple[Host, Host]) -> None:
    """Both launchers exit with the failing worker's code, and the other node's says which worker it was."""
    (tmp_path / "fail.py").write_text(
        "import os, sys, time\nif os.environ['RANK'] == '3': sys.exit(17)\ntime.sleep(1000)"
    )
    with ExitStack() as stack:
        runs = start_on_both(stack, tmp_path, hosts, "--nnodes", "2", str(tmp_path / "fail.py"))
        results = [run.result() for run in runs]
    assert [result.code for result in results] == [17, 17]
    assert "error: node 1: rank 3 (pid " in results[0].err
    assert "ignite-launch: rank 3 (pid " in results[1].err


@pytest.mark.distributed
def test_a_restart_restarts_all_nodes(tmp_path: Path, hosts: tuple[Host, Host]) -> None:
    """After a worker fails on one node the workers of both restart, even if they don't communicate."""
    (tmp_path / "once.py").write_text(
        "import os, sys, time\n"
        "if os.environ['TORCHELASTIC_RESTART_COUNT'] == '1': sys.exit(0)\n"
        "if os.environ['RANK'] == '3': sys.exit(17)\ntime.sleep(1000)"
    )
    with ExitStack() as stack:
        runs = start_on_both(stack, tmp_path, hosts, "--nnodes", "2", "--max-restarts", "1", str(tmp_path / "once.py"))
        results = [run.result() for run in runs]
    assert [result.code for result in results] == [0, 0]
    assert "another node restarts its workers" in results[0].err
    assert "exited with code 17; restart 1 of 1" in results[1].err
    alone = ["none of the 4 processes created a process group" in result.err for result in results]
    assert alone == [True, False]  # node 0 speaks for all


class _CountingStore:
    """The store's own methods, counted by name."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.requests: Counter[str] = Counter()

    def clone(self) -> "_CountingStore":
        return self

    def __getattr__(self, name: str) -> Any:
        self.requests[name] += 1
        return getattr(self._store, name)


@pytest.mark.parametrize("rank", [0, 63])
def test_a_beat_is_two_requests(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 64 nodes, the one that watches them all and one that watches one make the same two requests for each beat."""
    monkeypatch.setattr(heartbeat, "_INTERVAL", 0.01)
    store = _CountingStore(host_store("127.0.0.1"))
    heartbeat.prepare_keys(store, 64)
    store.requests.clear()
    node = heartbeat.Heartbeat(store, rank, 64, lambda message, code: None, lambda: None)
    wait_until(lambda: store.requests["add"] > 5, "five beats")
    node.stop()
    assert set(store.requests) == {"set_timeout", "add", "multi_get"}
    assert abs(store.requests["add"] - store.requests["multi_get"]) <= 1  # one may be under way


def test_the_node_that_died_before_a_failure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first node to report a failure names the node that had stopped sending heartbeats, and no other."""
    monkeypatch.setattr(heartbeat, "_INTERVAL", 0.05)
    monkeypatch.setattr(heartbeat, "_SILENCE", 0.5)
    store = host_store("127.0.0.1")
    heartbeat.prepare_keys(store, 4)
    losses: list[tuple[str, int]] = []
    nodes = [heartbeat.Heartbeat(store, rank, 4, lambda *loss: losses.append(loss), lambda: None) for rank in range(4)]
    nodes[3].stop()
    assert nodes[1].report_failure(7, "rank 2 failed") == (7, "node 3 stopped responding before that")
    assert nodes[2].report_failure(9, "rank 4 failed") == (7, "node 1: rank 2 failed; that was the first failure")
    wait_until(lambda: losses, "the news on node 0")
    assert losses[0] == ("node 1: rank 2 failed", 7)


@pytest.mark.parametrize("news", ["0 all is well", "x", "-5 node 9: odd"])
def test_a_failure_is_never_exit_code_0(news: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever another process writes into the store as a failure, a node that reads it exits with 1."""
    monkeypatch.setattr(heartbeat, "_INTERVAL", 0.01)
    store = host_store("127.0.0.1")
    heartbeat.prepare_keys(store, 2)
    losses: list[tuple[str, int]] = []
    heartbeat.Heartbeat(store, 1, 2, lambda *loss: losses.append(loss), lambda: None)
    store.set("heartbeat/news", news)
    wait_until(lambda: losses, "the news")
    assert [code for _, code in losses] == [1]


def _check_message(result: Result, message: str) -> None:
    assert result.code == 1
    assert result.err.splitlines()[-1] == f"ignite-launch: error: {message}"
    assert "Traceback" not in result.err
