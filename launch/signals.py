"""What Ctrl-C, SIGTERM, SIGHUP and SIGQUIT do to a supervised launch: once, the workers may save; twice, now."""

import signal
from collections.abc import Callable
from types import FrameType

from .say import say

__all__ = ["Interruption"]

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT") if hasattr(signal, name))


class Interruption:
    """The first signal that came, for the supervisor to pass on; every later one calls ``kill_workers``.

    Attributes:
        received: the first signal, or None.
        may_raise: whether the main thread waits where nothing polls, so that only an exception reaches it.
    """

    def __init__(self, kill_workers: Callable[[], None], error: Callable[[signal.Signals], Exception]) -> None:
        self.received: signal.Signals | None = None
        self.may_raise = False
        self._kill_workers = kill_workers
        self._error = error

    def install(self) -> None:
        """Handle the signals, but for those that the launcher was started to ignore, as nohup does."""
        for number in _SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._handle)

    def check(self) -> None:
        """Raise if a signal came."""
        if self.received is not None:
            raise self._error(self.received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            say(f"{signal.Signals(number).name} again: ending the workers now")
            self._kill_workers()
            return
        self.received = signal.Signals(number)
        if self.may_raise:
            self.check()
