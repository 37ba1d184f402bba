"""The order in which workers die: the first to fail is the cause, the others fail in its wake."""

import contextlib
import os
import select
import threading
from collections.abc import Mapping

__all__ = ["DeathWatch"]

_PATIENCE = 2.0


class DeathWatch:
    """Notes each worker's end in the kernel's order, where torch only looks ten times a second, in order of rank."""

    def __init__(self) -> None:
        self._order: list[int] = []
        self._thread: threading.Thread | None = None

    def watch(self, pids: Mapping[int, int]) -> None:
        """Start anew with the workers whose process ids these are, by local rank."""
        self._order = []
        descriptors: dict[int, int] = {}
        with contextlib.suppress(AttributeError, OSError):  # before Linux 5.3 the order is torch's
            for rank, pid in pids.items():
                descriptors[os.pidfd_open(pid)] = rank
        self._thread = None
        if descriptors:
            self._thread = threading.Thread(target=self._note, args=(descriptors, self._order), daemon=True)
            self._thread.start()

    def order(self) -> list[int]:
        """Return the local ranks in the order of their deaths, once all have died."""
        if self._thread is not None:
            self._thread.join(_PATIENCE)
        return list(self._order)

    @staticmethod
    def _note(descriptors: dict[int, int], order: list[int]) -> None:
        # epoll hands out what is ready in the order in which it became so; poll would sort by registration.
        with select.epoll() as deaths:
            for descriptor in descriptors:
                deaths.register(descriptor, select.EPOLLIN)
            while descriptors:
                for descriptor, _event in deaths.poll(maxevents=1):
                    order.append(descriptors.pop(descriptor))
                    deaths.unregister(descriptor)
                    os.close(descriptor)
