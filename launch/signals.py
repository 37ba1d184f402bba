"""What Ctrl-C, SIGTERM, SIGHUP and SIGQUIT do to a supervised launch: once, the workers may save; twice, now."""

import signal
from collections.abc import Callable
from types import FrameType

from .say import say

__all__ = ["Interrupted", "Interruption"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Interrupted(BaseException):
    """A signal asked the launch to end; like KeyboardInterrupt it passes by whoever catches exceptions."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


class Interruption:
    """The first signal that comes, to be passed on to the workers; every later one ends them at once.

    Attributes:
        received: the first signal, or None.
        may_raise: whether the signal itself raises Interrupted; else ``check`` does, where no step is half done.
        kill_workers: what every later signal calls.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.may_raise = True
        self.kill_workers: Callable[[], None] = lambda: None

    def install(self) -> None:
        """Handle the signals, but for those that the launcher was started to ignore, as nohup does."""
        for number in _SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._handle)

    def check(self) -> None:
        """Raise Interrupted if a signal came."""
        if self.received is not None:
            raise Interrupted(self.received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            say(f"{signal.Signals(number).name} again: ending the workers now")
            self.kill_workers()
            return
        self.received = signal.Signals(number)
        if self.may_raise:
            raise Interrupted(self.received)
