"""The order in which workers die: the first to fail is the cause, the others fail in its wake."""

import os
import select
import threading
from collections.abc import Mapping

__all__ = ["DeathWatch"]


class DeathWatch:
    """Notes each worker's end as it comes, where torch only looks ten times a second, in order of rank."""

    def __init__(self) -> None:
        self._order: list[int] = []
        self._thread: threading.Thread | None = None

    def watch(self, pids: Mapping[int, int]) -> None:
        """Start anew with the workers whose process ids these are, by local rank."""
        self._order = []
        descriptors = {os.pidfd_open(pid): rank for rank, pid in pids.items()} if hasattr(os, "pidfd_open") else {}
        self._thread = threading.Thread(target=self._note, args=(descriptors, self._order), daemon=True)
        self._thread.start()

    def order(self) -> list[int]:
        """Return the local ranks that have died, first the first."""
        return list(self._order)

    @staticmethod
    def _note(descriptors: dict[int, int], order: list[int]) -> None:
        poll = select.poll()
        for descriptor in descriptors:
            poll.register(descriptor, select.POLLIN)
        while descriptors:
            for descriptor, _event in poll.poll():
                order.append(descriptors.pop(descriptor))
                poll.unregister(descriptor)
                os.close(descriptor)
