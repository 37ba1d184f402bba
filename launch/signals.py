"""Ctrl-C, SIGTERM, SIGHUP and SIGQUIT: the first one lets the workers save, the second one kills them."""

import signal
from collections.abc import Callable
from types import FrameType

from .errors import log

__all__ = ["Interrupted", "SignalHandler"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Interrupted(BaseException):
    """A signal asked the launch to end. Like KeyboardInterrupt, it passes ``except Exception``."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


class SignalHandler:
    """Keeps the first signal, which is passed on to the workers. Every later one kills them.

    Attributes:
        received: first signal, or None.
        may_raise: True where the signal handler itself may raise Interrupted. Where a step must not stop halfway, it is
            False and ``check`` raises instead.
        kill_workers: called by every later signal.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.may_raise = True
        self.kill_workers: Callable[[], None] = lambda: None

    def install(self) -> None:
        """Handle the signals, except those that the launcher was started to ignore (as nohup does)."""
        for number in _SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._handle)

    def check(self) -> None:
        """Raise Interrupted if a signal was received."""
        if self.received is not None:
            raise Interrupted(self.received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            log(f"{signal.Signals(number).name} again: killing the workers now")
            self.kill_workers()
            return
        self.received = signal.Signals(number)
        if self.may_raise:
            raise Interrupted(self.received)
