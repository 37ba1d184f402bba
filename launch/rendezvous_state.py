"""Keeps pickles of strangers out of torch's elastic rendezvous, which unpickles what it finds in the store.

A run id that nobody can guess would not help: a store lists its keys to whoever connects.
"""

import io
import pickle
from typing import Any

from torch.distributed.elastic.rendezvous import RendezvousStateError, dynamic_rendezvous
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import RendezvousBackend, Token

from .errors import LaunchError

__all__ = ["CheckedBackend"]


class _ForeignStateError(LaunchError, RendezvousStateError):
    """The store holds a state that no launcher wrote."""


class CheckedBackend(RendezvousBackend):
    """A rendezvous backend that hands on only states made of torch's own rendezvous classes, sets and times."""

    def __init__(self, backend: RendezvousBackend) -> None:
        self._backend = backend

    @property
    def name(self) -> str:
        """Name of the backend."""
        return self._backend.name

    def get_state(self) -> tuple[bytes, Token] | None:
        """Return the state and its version, if there is one."""
        answer = self._backend.get_state()
        if answer is not None:
            _check(answer[0])
        return answer

    def set_state(self, state: bytes, token: Token | None = None) -> tuple[bytes, Token, bool] | None:
        """Set the state if ``token`` is the newest version; return what stands there then."""
        answer = self._backend.set_state(state, token)
        if answer is not None:
            _check(answer[0])
        return answer


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in (dynamic_rendezvous.__name__, "datetime") or (module, name) == ("builtins", "set"):
            found = super().find_class(module, name)
            if isinstance(found, type) and found.__module__ == module:  # not what the module has imported
                return found
        raise pickle.UnpicklingError(f"it holds {module}.{name}")


def _check(state: bytes) -> None:
    try:
        _Reader(io.BytesIO(state)).load()
    except Exception as error:  # a broken pickle may raise anything
        raise _ForeignStateError(
            f"the rendezvous store holds a state that no launcher writes ({error}): another program uses it; keep its "
            "port within a network that you trust"
        ) from error
