"""Heartbeats between the nodes, through the rendezvous store.

Each node counts its beats, one a second. Node 0 watches all nodes, the others watch node 0, so that the store's work
for a node does not grow with the number of nodes. The first news (a failure, a lost node or a restart) is under one
key, which each node reads with every beat.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

__all__ = ["Heartbeat", "prepare_keys"]

_INTERVAL = 1.0
_TIMEOUT = 20.0
# A failing node that has missed this many seconds of beats probably failed first.
_SILENCE = 3 * _INTERVAL
_NEWS = "heartbeat/news"
_RESTART = "restart"


def prepare_keys(store: Any, nodes: int) -> None:
    """Create all keys. Only one node does this, before the others read them: to read a missing key is to wait."""
    store.multi_set([_NEWS, *map(_beat_key, range(nodes))], ["", *["0"] * nodes])


def _beat_key(node: int) -> str:
    return f"heartbeat/{node}"


def _read_failure(news: str) -> tuple[int, str]:
    """Return a failure's exit code, which is never 0 whoever wrote it into the store, and its message."""
    code, _, message = news.partition(" ")
    return (int(code) if code.isdecimal() else 0) or 1, message


class Heartbeat:
    """Sends this node's heartbeat and watches the others', while the workers run.

    Each callback is called at most once, from a thread.

    Args:
        store: the store of this rendezvous, shared by all nodes, with the keys of ``prepare_keys``.
        rank: this node's rank.
        nodes: number of nodes.
        on_loss: called with a message and the run's exit code when another node fails or stops responding.
        on_restart: called when another node restarts its workers.
    """

    def __init__(
        self,
        store: Any,
        rank: int,
        nodes: int,
        on_loss: Callable[[str, int], None],
        on_restart: Callable[[], None],
    ) -> None:
        self._store = store.clone()  # its own connection: a wait of torch's would block the heartbeat
        self._store.set_timeout(timedelta(seconds=_TIMEOUT))
        self._rank = rank
        self._nodes = nodes
        self._own_news = ""
        self._on_loss = on_loss
        self._on_restart = on_restart
        watched = range(nodes) if rank == 0 else (0,)
        self._beats = dict.fromkeys(watched, b"")
        self._last_seen = dict.fromkeys(watched, time.monotonic())
        self._last_answer = time.monotonic()
        self._stopped = threading.Event()
        for work in (self._exchange, self._watch):
            threading.Thread(target=work, daemon=True).start()

    def announce_restart(self) -> None:
        """Tell the other nodes that this one restarts its workers, so theirs don't wait for dead peers."""
        self._publish(_RESTART)

    def stop(self) -> None:
        """Stop both threads: this node is done."""
        self._stopped.set()

    def report_failure(self, exit_code: int, message: str) -> tuple[int, str]:
        """Tell the other nodes that this one failed; return the run's exit code, and what failed before it or "".

        Takes a few seconds, in which the others learn of it and a node that died silently misses its beats.
        """
        own = f"{exit_code} node {self._rank}: {message}"
        first = self._publish(own)
        before = self._read_beats() if first == own else []
        deadline = time.monotonic() + _SILENCE
        while time.monotonic() < deadline and not self._stopped.wait(_INTERVAL / 4):
            pass
        self.stop()
        if first not in (own, _RESTART):
            code, description = _read_failure(first)
            return code, f"{description}; that was the first failure"
        beats = enumerate(zip(before, self._read_beats(), strict=False))
        silent = [f"node {node}" for node, (then, now) in beats if then == now and node != self._rank]
        return exit_code, f"{' and '.join(silent)} stopped responding before that" if silent else ""

    def _publish(self, news: str) -> str:
        """Publish ``news`` unless there is some already; return what stands there."""
        self._own_news = news
        with contextlib.suppress(RuntimeError):
            return str(self._store.compare_set(_NEWS, "", news).decode())
        return news

    def _read_beats(self) -> list[bytes]:
        with contextlib.suppress(RuntimeError):
            return list(self._store.multi_get(list(map(_beat_key, range(self._nodes)))))
        return []

    def _exchange(self) -> None:
        """Beat, and read the news and the watched nodes' beats, once a second."""
        keys = [_NEWS, *map(_beat_key, self._beats)]
        while not self._stopped.wait(_INTERVAL):
            try:
                self._store.add(_beat_key(self._rank), 1)
                news, *beats = self._store.multi_get(keys)
            except RuntimeError:
                self._lose("lost the connection to the node that hosts the rendezvous")
                return
            self._last_answer = time.monotonic()
            self._act_on(news.decode())
            self._check_beats(beats)

    def _act_on(self, news: str) -> None:
        if news in ("", self._own_news) or self._stopped.is_set():
            return
        if news == _RESTART:
            self.stop()
            self._on_restart()
        else:
            code, message = _read_failure(news)
            self._lose(message, code)

    def _check_beats(self, beats: list[bytes]) -> None:
        for node, beat in zip(self._beats, beats, strict=True):
            if beat != self._beats[node]:
                self._beats[node], self._last_seen[node] = beat, self._last_answer
            elif self._last_answer - self._last_seen[node] > _TIMEOUT and not self._stopped.is_set():
                message = f"no heartbeat from node {node} for {_TIMEOUT:g} s"
                self._publish(f"1 {message}")
                self._lose(message)

    def _watch(self) -> None:
        """Notice that the store does not answer, while ``_exchange`` waits for it."""
        while not self._stopped.wait(_INTERVAL):
            if time.monotonic() - self._last_answer > _TIMEOUT:
                self._lose(f"the node that hosts the rendezvous has not answered for {_TIMEOUT:g} s")

    def _lose(self, message: str, exit_code: int = 1) -> None:
        if not self._stopped.is_set():
            self.stop()
            self._on_loss(message, exit_code)
