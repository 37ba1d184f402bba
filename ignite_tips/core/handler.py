"""The base of all handlers: a repr with their settings, and an error for a handler that is registered by hand."""

import inspect
from collections import Counter
from collections.abc import Iterator
from numbers import Number
from types import NoneType
from typing import Any, Never, Self

from ignite.engine import Engine
from torch.optim.lr_scheduler import LRScheduler

__all__ = ["Handler", "show"]

_PLAIN = (Number, str, bytes, NoneType, list, tuple, set, dict)
_LONGEST = 80  # characters of one value


class _CallSignature(inspect.Signature):
    """The signature of a handler's ``__call__``, with our error for a call that does not fit.

    Ignite asks a function's signature when it is registered, before any event fires.
    """

    def __init__(self, handler: "Handler") -> None:
        super().__init__(list(inspect.signature(handler.__call__).parameters.values()))
        self._error = handler._error()

    def bind(self, *args: Any, **kwargs: Any) -> inspect.BoundArguments:
        try:
            return super().bind(*args, **kwargs)
        except TypeError:
            raise self._error from None


class _ClassSignature(inspect.Signature):
    """The signature of a handler's class, with our error if Ignite would call the class when an event fires."""

    def __init__(self, owner: type) -> None:
        _, *parameters = inspect.signature(owner.__init__).parameters.values()  # type: ignore[misc]  # without self
        super().__init__(parameters)
        self._owner = owner

    def bind(self, *args: Any, **kwargs: Any) -> inspect.BoundArguments:
        if args and isinstance(args[0], Engine):
            # Ignite answers a TypeError or a ValueError by trying again without the engine, which may fit.
            raise RuntimeError(
                f"handler must be a function, got the class {self._owner.__name__}; use "
                f"{self._owner.__name__}(...).attach(trainer) instead"
            )
        return super().bind(*args, **kwargs)


class _Signature:
    """Gives a handler the signature of its ``__call__``, and its class that of the constructor."""

    def __get__(self, handler: "Handler | None", owner: type) -> inspect.Signature:
        return _ClassSignature(owner) if handler is None else _CallSignature(handler)


class Handler:
    """A handler that is attached by its own ``attach()``: Ignite's ``add_event_handler`` refuses it with a remedy.

    Its repr is the call that made it; an object in it is shown by its class.

    Example:
        >>> from ignite_tips import GradientNormClipper
        >>> GradientNormClipper(torch.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.1), 1.0, per_group=True)
        GradientNormClipper(SGD, max_norm=1.0, per_group=True)
    """

    _given: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Keep the arguments of the call, as the constructor itself does."""
        self = super().__new__(cls)
        self._given = args, kwargs
        return self

    __signature__ = _Signature()

    def __call__(self, *, never: Never) -> Any:
        """Raise: only log handlers are called. The argument makes every call of Ignite's a wrong one."""
        raise self._error()

    def _error(self) -> ValueError:
        return ValueError(
            f"handler must be a function, got a {type(self).__name__}, which registers itself; use "
            "handler.attach(trainer, ...) instead"
        )

    def __repr__(self) -> str:
        args, kwargs = self._given
        arguments = inspect.signature(type(self)).bind(*args, **kwargs).arguments
        shown = [
            f"{name}={show(value)}" if index else show(value) for index, (name, value) in enumerate(arguments.items())
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


def show(value: Any) -> str:
    """Return a setting as a repr shows it: a scheduler with its own settings, another object by its class."""
    if isinstance(value, Counter):  # as which MultiStepLR keeps its milestones
        value = sorted(value.elements())
    if isinstance(value, list):
        return f"[{', '.join(map(show, value))}]"
    if isinstance(value, _PLAIN):
        text = " ".join(repr(value).split())
        return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
    name: str = getattr(value, "__name__", type(value).__name__)
    if isinstance(value, LRScheduler) and type(value).__repr__ is not object.__repr__:
        return repr(value)
    if isinstance(value, LRScheduler):
        settings = ", ".join(f"{argument}={show(setting)}" for argument, setting in _settings_of(value))
        return f"{name}({settings})" if settings else name
    return name


def _settings_of(scheduler: LRScheduler) -> Iterator[tuple[str, Any]]:
    """Yield the arguments that a scheduler keeps under their names, except those that have their default values."""
    kept = vars(scheduler)
    for name, parameter in inspect.signature(type(scheduler)).parameters.items():
        value = kept.get(name, kept.get(f"_{name}", parameter.default))
        if name != "last_epoch" and isinstance(value, _PLAIN) and value != parameter.default:
            yield name, value
