"""Whether the other nodes live: each beats in the store that they met in, and is missed when it stops."""

import contextlib
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

__all__ = ["Pulse"]

_INTERVAL = 1.0
_LIMIT = 20.0
_MISSED = 3 * _INTERVAL
_FAILURE = "failure"


class Pulse:
    """The beats of one node, and its ear for those of the others, while the workers run in their ``start``-th start.

    What it hears it passes on once, from a thread of its own: ``on_loss`` is called with what happened to another node
    and the run's exit code, ``on_restart`` when another node starts its workers again.
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
        self._store = store.clone()  # a connection of its own: torch's waits would hold up the beats
        self._store.set_timeout(timedelta(seconds=_LIMIT))
        self._rank = rank
        self._next_start = f"pulse/start/{start + 1}"
        self._on_loss = on_loss
        self._on_restart = on_restart
        self._beats = [0] * nodes
        self._heard = [time.monotonic()] * nodes
        self._answered = time.monotonic()
        self._stopped = threading.Event()
        for work in (self._beat, self._listen):
            threading.Thread(target=work, daemon=True).start()

    def announce(self, start: int) -> None:
        """Tell the other nodes that this one starts its workers again, so that theirs wait for no dead peers."""
        with contextlib.suppress(RuntimeError):
            self._store.set(f"pulse/start/{start}", "")

    def stop(self) -> None:
        """Beat and listen no more: this node is done."""
        self._stopped.set()

    def report(self, exit_code: int, words: str) -> tuple[int, str]:
        """Tell the other nodes of this node's failure; return the run's exit code, and what went before, in words.

        It takes some beats, in which the others hear it and a node that died in silence is missed.
        """
        own = told = f"{exit_code} node {self._rank}: {words}"
        with contextlib.suppress(RuntimeError):
            told = self._store.compare_set(f"pulse/{_FAILURE}", "", own).decode()
        deadline = time.monotonic() + _MISSED
        while time.monotonic() < deadline and not self._stopped.wait(_INTERVAL / 4):
            pass
        self.stop()
        code, _, first = told.partition(" ")
        if told != own:
            return int(code), f"the first to fail was {first}"
        missed = time.monotonic() - _MISSED + _INTERVAL / 2
        silent = [f"node {node}" for node, heard in enumerate(self._heard) if heard < missed]
        return exit_code, f"before it, {' and '.join(silent)} fell silent" if silent else ""

    def _beat(self) -> None:
        while not self._stopped.wait(_INTERVAL):
            try:
                for node, before in enumerate(self._beats):
                    self._beats[node] = self._store.add(f"pulse/{node}", int(node == self._rank))
                    if self._beats[node] != before:
                        self._heard[node] = time.monotonic()
                if self._store.check([f"pulse/{_FAILURE}"]):
                    code, _, words = self._store.get(f"pulse/{_FAILURE}").decode().partition(" ")
                    if not words.startswith(f"node {self._rank}: "):
                        self._lose(words, int(code))
                if self._store.check([self._next_start]) and not self._stopped.is_set():
                    self.stop()
                    self._on_restart()
            except RuntimeError:
                self._lose("the node that the others connect to is gone")
                return
            self._answered = time.monotonic()

    def _listen(self) -> None:
        while not self._stopped.wait(_INTERVAL):
            now = time.monotonic()
            if now - self._answered > _LIMIT:
                self._lose(f"the node that the others connect to has not answered for {_LIMIT:g} s")
            for node, heard in enumerate(self._heard):
                if now - heard > _LIMIT:
                    self._lose(f"node {node} has not been heard of for {_LIMIT:g} s")

    def _lose(self, words: str, exit_code: int = 1) -> None:
        if not self._stopped.is_set():
            self.stop()
            self._on_loss(words, exit_code)
