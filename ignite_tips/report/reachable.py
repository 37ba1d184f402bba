"""The optimizers and models that an engine's functions refer to, whether or not a handler knows them."""

import functools
import inspect
from collections import deque
from collections.abc import Iterable
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

from ignite.engine import Engine
from torch import Tensor, nn
from torch.optim import Optimizer

from ignite_tips.core.ignite_internals import update_function
from ignite_tips.report.events import registered

__all__ = ["find_reachable"]

_DEEPEST = 4  # references on the way: a method, its object, a list in it, a member of that
_LONGEST = 100  # members of a container that is looked into; larger ones are taken for data and skipped
_OPAQUE = (Engine, ModuleType, Tensor, type, str, bytes)


def find_reachable(engine: Engine) -> list[Optimizer | nn.Module]:
    """Return the optimizers and models that the update function and the handlers refer to.

    By variables of enclosing functions, global names, attributes, arguments of ``functools.partial``, and containers.
    Nothing is called.
    """
    functions = [function for _, entries in registered(engine) for function, _ in entries]
    found: list[Optimizer | nn.Module] = []
    seen: dict[int, Any] = {}
    queue = deque((function, 0) for function in (update_function(engine), *functions))
    while queue:
        value, depth = queue.popleft()
        if id(value) in seen:
            continue
        seen[id(value)] = value
        if isinstance(value, Optimizer | nn.Module):
            found.append(value)
        elif depth < _DEEPEST:
            queue.extend((other, depth + 1) for other in _referred_to_by(value))
    return found


def _referred_to_by(value: Any) -> Iterable[Any]:
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if inspect.ismethod(value):
        return [value.__func__, value.__self__]
    if isinstance(value, FunctionType):
        used = [value.__globals__[name] for name in _names(value.__code__) if name in value.__globals__]
        return [*map(_content, value.__closure__ or ()), *used]
    if isinstance(value, dict | list | tuple | set):
        members = value.values() if isinstance(value, dict) else value
        return members if len(members) <= _LONGEST else ()
    return () if isinstance(value, _OPAQUE) else getattr(value, "__dict__", {}).values()


def _names(code: CodeType) -> set[str]:
    """Return the global names in the code of a function and of those within it, besides names of attributes."""
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that has no value yet
        return None
