"""What heartbeats cost the rendezvous store, and how fast a lost node is noticed, with up to 1,024 simulated nodes.

The store is torch's own TCPStore, in one process with node 0, as in a launch. The other nodes are the launcher's own
Heartbeat objects, hundreds in a process, each with its own connection. The last of them falls silent.
"""

import multiprocessing
import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.tables import Bar, Table

NODES = (2, 16, 128, 1024)
NODES_PER_PROCESS = 256
SECONDS = 15.0
MOST_REQUESTS, MOST_OF_A_CORE, MOST_SECONDS = 4.0, 0.5, 25.0
HOST = "127.0.0.1"
MANY = 10_000


def measure(quick: bool) -> list[Table]:
    table = Table(
        "nodes",
        {
            "nodes": ",d",
            "requests a second": ",.0f",
            "a node": ".2f",
            "bar": ".0f",
            "host's processor, cores": ".3f",
            "bar ": ".1f",
            "lost node noticed by all, s": ".1f",
            "bar  ": ".0f",
        },
        caption="Heartbeats of simulated nodes through one store.\n\n![By the number of nodes](results-heartbeats.png)",
        note="All nodes share this machine's cores with the store. A node is lost after 20 s without a heartbeat.",
    )
    for nodes in NODES[:1] if quick else NODES:
        requests, load, seconds = _simulate(nodes, 3.0 if quick else SECONDS)
        cells = (requests, requests / nodes, Bar(MOST_REQUESTS, requests / nodes))
        table.add(nodes, *cells, load, Bar(MOST_OF_A_CORE, load), seconds, Bar(MOST_SECONDS, seconds))
    table.note += _say_of_many(nodes, load)
    return [table]


def _say_of_many(nodes: int, load: float) -> str:
    """Return what the largest simulation says of more nodes than one machine can simulate."""
    cores = load * MANY / nodes
    return (
        f" The host's work for a node is the same at any number: {MANY:,} nodes would take {cores:.2f} of a core, and "
        f"{2 * MANY:,} connections, for which node 0's launcher raises its limit of open files."
    )


def _simulate(nodes: int, seconds: float) -> tuple[float, float, float]:
    """Return the requests a second, the host's load in cores, and the seconds from a node's end to the last notice."""
    processes, pipes = _start_processes(nodes)
    before = _ask_all(pipes, "measure")
    time.sleep(seconds)
    after = _ask_all(pipes, "measure")
    spans = [late[0] - early[0] for early, late in zip(before, after, strict=True)]
    requests = sum((late[1] - early[1]) / span for early, late, span in zip(before, after, spans, strict=True))
    load = (after[0][2] - before[0][2]) / spans[0]
    lost = pipes[-1]
    lost.send("end the last node")
    ended = lost.recv()
    noticed = max(_ask_all(pipes, "notice"))
    for process in processes:
        process.kill()
        process.join()
    return requests, load, noticed - ended


def _start_processes(nodes: int) -> tuple[list[Any], list[Connection]]:
    """Start the processes of all nodes, the host first; return once every node is connected and sends its beats."""
    context = multiprocessing.get_context("spawn")
    first_of_each = [0, *range(1, nodes, NODES_PER_PROCESS)]
    processes, pipes = [], []
    for first, end in zip(first_of_each, [*first_of_each[1:], nodes], strict=True):
        ours, theirs = context.Pipe()
        processes.append(context.Process(target=_run_nodes, args=(theirs, range(first, end), nodes), daemon=True))
        processes[-1].start()
        pipes.append(ours)
    pipes[0].send(0)
    port = pipes[0].recv()
    for pipe in pipes[1:]:
        pipe.send(port)
    for pipe in pipes[1:]:
        pipe.recv()
    _ask_all(pipes, "start")
    return processes, pipes


def _ask_all(pipes: list[Connection], question: str) -> list[Any]:
    for pipe in pipes:
        pipe.send(question)
    return [pipe.recv() for pipe in pipes]


class _CountingStore:
    """A connection to the store that counts requests."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.requests = 0

    def clone(self) -> "_CountingStore":
        return self  # each node has its own already

    def __getattr__(self, name: str) -> Callable[..., Any]:
        self.requests += name != "set_timeout"
        method: Callable[..., Any] = getattr(self._store, name)
        return method


def _run_nodes(pipe: Connection, ranks: range, nodes: int) -> None:
    """Run the nodes of ``ranks``, of which 0 hosts the store. The pipe brings the port, then questions."""
    from ignite_launch.heartbeat import Heartbeat, prepare_keys
    from ignite_launch.rendezvous import host_store
    from torch.distributed import TCPStore

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    port = pipe.recv()
    stores = [_CountingStore(TCPStore(HOST, port) if rank else host_store(HOST)) for rank in ranks]
    if not port:
        prepare_keys(stores[0], nodes)
        port = stores[0].port
    pipe.send(port)
    notices: list[float] = []
    beats: list[Heartbeat] = []
    while True:
        match pipe.recv():
            case "start":
                arguments = nodes, lambda message, exit_code: notices.append(time.monotonic()), _ignore
                beats = [Heartbeat(store, rank, *arguments) for rank, store in zip(ranks, stores, strict=True)]
                pipe.send(None)
            case "measure":
                pipe.send((time.monotonic(), sum(store.requests for store in stores), time.process_time()))
            case "end the last node":
                beats.pop().stop()
                pipe.send(time.monotonic())
            case "notice":
                while len(notices) < len(beats):
                    time.sleep(0.05)
                pipe.send(max(notices, default=0.0))


def _ignore() -> None:
    """Nothing restarts here."""
