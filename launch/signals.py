"""Signals that end the run: the first one lets the workers save, the second one kills them. Others are passed on."""

import os
import signal
from collections.abc import Callable
from types import FrameType

from .errors import log, signal_name

__all__ = ["Interrupted", "SignalHandler"]

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
# Not passed on: what cannot be caught, what the launcher itself caused, and what is about it or its terminal alone.
_OWN_NAMES = (
    *("KILL", "STOP", "CHLD", "SEGV", "BUS", "FPE", "ILL", "ABRT", "TRAP", "SYS", "PIPE"),
    *("TSTP", "TTIN", "TTOU", "CONT", "URG", "WINCH", "STKFLT"),
)
_OWN = {getattr(signal, f"SIG{name}", None) for name in _OWN_NAMES}


class Interrupted(BaseException):
    """A signal asked the launch to end. Like KeyboardInterrupt, it passes ``except Exception``."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


class SignalHandler:
    """Keeps the first signal that ends the run, which the workers get too. Every later one kills them.

    All other signals go to the workers, as a cluster's SIGUSR1 before it takes the machine away.

    Attributes:
        received: first signal, or None.
        may_raise: True where the signal handler itself may raise Interrupted. Where a step must not stop halfway, it is
            False and ``check`` raises instead.
        exits_at_once: True while torch is imported: there are no workers yet, and an exception within torch's C++ code
            would abort the process.
        kill_workers: called by every later signal.
        pass_on: called with a signal that is for the workers; returns how many got it.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.may_raise = True
        self.exits_at_once = False
        self.kill_workers: Callable[[], None] = lambda: None
        self.pass_on: Callable[[int], int] = lambda number: 0

    def install(self) -> None:
        """Handle the signals, except those that the launcher was started to ignore (as nohup does)."""
        for number in signal.valid_signals() - _OWN:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._handle if number in _ENDING else self._pass_on)

    def check(self) -> None:
        """Raise Interrupted if a signal was received."""
        if self.received is not None:
            raise Interrupted(self.received)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        name, count = signal_name(number), self.pass_on(number)
        log(f"{name} passed on to {count} workers" if count else f"{name} ignored: no worker is running")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            log(f"{signal.Signals(number).name} again: killing the workers now")
            self.kill_workers()
            return
        self.received = signal.Signals(number)
        if self.exits_at_once:
            os._exit(128 + number)
        if self.may_raise:
            raise Interrupted(self.received)
