"""Heartbeats between the nodes, through the rendezvous store."""

import contextlib
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

__all__ = ["Heartbeat"]

_INTERVAL = 1.0
_TIMEOUT = 20.0
# A failing node that has missed this many seconds of beats probably failed first.
_SILENCE = 3 * _INTERVAL
_FAILURE = "heartbeat/failure"


class Heartbeat:
    """Sends this node's heartbeat and watches the others', while the workers run.

    Each callback is called at most once, from a thread.

    Args:
        store: the rendezvous store, shared by all nodes.
        rank: this node's rank.
        nodes: number of nodes.
        start: how often the workers were restarted.
        on_loss: called with a message and the run's exit code when another node fails or stops responding.
        on_restart: called when another node restarts its workers.
    """

    def __init__(
        self,
        store: Any,
        rank: int,
        nodes: int,
        start: int,
        on_loss: Callable[[str, int], None],
        on_restart: Callable[[], None],
    ) -> None:
        self._store = store.clone()  # its own connection: a wait of torch's would block the heartbeat
        self._store.set_timeout(timedelta(seconds=_TIMEOUT))
        self._rank = rank
        self._next_start = f"heartbeat/start/{start + 1}"
        self._on_loss = on_loss
        self._on_restart = on_restart
        self._beats = [0] * nodes
        self._last_seen = [time.monotonic()] * nodes
        self._last_answer = time.monotonic()
        self._stopped = threading.Event()
        for work in (self._exchange, self._watch):
            threading.Thread(target=work, daemon=True).start()

    def announce_restart(self, start: int) -> None:
        """Tell the other nodes that this one restarts its workers, so theirs don't wait for dead peers."""
        with contextlib.suppress(RuntimeError):
            self._store.set(f"heartbeat/start/{start}", "")

    def stop(self) -> None:
        """Stop both threads: this node is done."""
        self._stopped.set()

    def report_failure(self, exit_code: int, message: str) -> tuple[int, str]:
        """Tell the other nodes that this one failed; return the run's exit code, and what failed before it or "".

        Takes a few seconds, in which the others learn of it and a node that died silently misses its beats.
        """
        own = first = f"{exit_code} node {self._rank}: {message}"
        with contextlib.suppress(RuntimeError):
            first = self._store.compare_set(_FAILURE, "", own).decode()
        deadline = time.monotonic() + _SILENCE
        while time.monotonic() < deadline and not self._stopped.wait(_INTERVAL / 4):
            pass
        self.stop()
        if first != own:
            code, _, description = first.partition(" ")
            return int(code), f"{description}; that was the first failure"
        limit = time.monotonic() - _SILENCE + _INTERVAL / 2
        silent = [f"node {node}" for node, last_seen in enumerate(self._last_seen) if last_seen < limit]
        return exit_code, f"{' and '.join(silent)} stopped responding before that" if silent else ""

    def _exchange(self) -> None:
        """Beat and read the store, once a second."""
        while not self._stopped.wait(_INTERVAL):
            try:
                self._beat()
                self._check_failure()
                if self._store.check([self._next_start]) and not self._stopped.is_set():
                    self.stop()
                    self._on_restart()
            except RuntimeError:
                self._lose("lost the connection to the node that hosts the rendezvous")
                return
            self._last_answer = time.monotonic()

    def _beat(self) -> None:
        for node, before in enumerate(self._beats):
            self._beats[node] = self._store.add(f"heartbeat/{node}", int(node == self._rank))
            if self._beats[node] != before:
                self._last_seen[node] = time.monotonic()

    def _check_failure(self) -> None:
        if self._store.check([_FAILURE]):
            code, _, message = self._store.get(_FAILURE).decode().partition(" ")
            if not message.startswith(f"node {self._rank}: "):
                self._lose(message, int(code))

    def _watch(self) -> None:
        """Look for a timeout, even while ``_exchange`` waits for the store."""
        while not self._stopped.wait(_INTERVAL):
            now = time.monotonic()
            if now - self._last_answer > _TIMEOUT:
                self._lose(f"the node that hosts the rendezvous has not answered for {_TIMEOUT:g} s")
            for node, last_seen in enumerate(self._last_seen):
                if now - last_seen > _TIMEOUT:
                    self._lose(f"no heartbeat from node {node} for {_TIMEOUT:g} s")

    def _lose(self, message: str, exit_code: int = 1) -> None:
        if not self._stopped.is_set():
            self.stop()
            self._on_loss(message, exit_code)
