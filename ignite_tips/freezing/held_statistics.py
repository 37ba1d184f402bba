"""Hold the statistics of frozen modules, such as BatchNorm's running mean: keep the modules in eval mode.

A mode that is set once does not last, because Ignite's supervised trainer calls ``model.train()`` in every iteration.
"""

import functools
import weakref
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm

from ignite_tips.parameters.selection import unwrap_model

__all__ = ["EvalHold", "Place", "frozen_places", "hold_statistics"]

# While a module is held, nn.Module.train is replaced by a function that looks into a weak record of held modules. An
# attribute or a hook on the module itself would be copied and pickled with it, and nothing would release the copy. A
# global forward pre-hook would leave torch alone, but costs 5 µs per module and forward pass (this costs 1 to 2 µs per
# module and train()), and the modules would have training=True until their next forward pass.
_Module: Any = nn.Module
_torch_train = _Module.train
_is_installed = False


class EvalHold:
    """Keeps the module at one place of a model in eval mode through every ``train()``, until ``release``.

    If another module replaces it, as ``SyncBatchNorm.convert_sync_batchnorm`` does, that one is held from the model's
    next ``train()`` on, unless it has parameters that require a gradient.

    Attributes:
        mode: what ``train()`` asked for last, True for train mode.

    Not noticed: ``module.training = True``, a direct call of a ``train`` method that does not call ``super().train``,
    and a replacement of a module that has no parent.

    Args:
        module: what to hold. Its children, dropout among them, are left alone.
        parent: the module that has it as a child; None if nothing does.
        key: the child's name there.
    """

    def __init__(self, module: nn.Module, parent: nn.Module | None = None, key: str = "") -> None:
        others = _holds.get(module, ())
        self._module = weakref.ref(module)
        self._parent: Callable[[], nn.Module | None] = (lambda: None) if parent is None else weakref.ref(parent)
        self._key = key
        self.mode: bool = next((other.mode for other in others if other.holds(module)), bool(module.training))
        module.training = False
        _install()
        for watched in (module, parent):
            if watched is not None:
                _holds.setdefault(watched, []).append(self)

    def holds(self, module: nn.Module) -> bool:
        """Whether it is this module that is held, and not its parent."""
        return self._module() is module

    def release(self) -> None:
        """End the hold, and set the mode that was asked for last."""
        self._adopt_replacement()
        module = self._module()
        for watched in (module, self._parent()):
            if watched is not None:
                _forget(watched, self)
        if module is not None and not any(other.holds(module) for other in _holds.get(module, ())):
            module.training = self.mode
        _uninstall_if_unused()

    def after_train(self, trained: nn.Module, mode: bool) -> None:
        """Put the module back into eval mode after ``trained.train(mode)``, of the module or of its parent."""
        # A parent's train() also reaches the module itself, so it counts only if the module was replaced.
        if trained is self._module() or self._adopt_replacement():
            self.mode = mode
        module = self._module()
        if module is not None and module.training:
            module.training = False

    def _adopt_replacement(self) -> bool:
        parent, module = self._parent(), self._module()
        there = None if parent is None else parent._modules.get(self._key)
        if there is module or not isinstance(there, nn.Module):
            return False
        if any(parameter.requires_grad for parameter in there.parameters(recurse=False)):
            return False
        if module is not None:
            _forget(module, self)
        self._module = weakref.ref(there)
        _holds.setdefault(there, []).append(self)
        return True


def hold_statistics(model: nn.Module, patterns: tuple[str, ...], frozen: Iterable[nn.Parameter]) -> list[EvalHold]:
    """Hold each module that has statistics and whose parameters are all frozen.

    A module without parameters is held if a pattern matches its buffers; a parametrization, if the tensors that it
    computes its weight from are frozen.

    Parametrizations with buffers and ``torch.nn.utils.spectral_norm`` are found by their classes. BatchNorm and similar
    modules, also those of other libraries, can only be guessed by the buffer names ``running_mean``, ``running_var``;
    what changes in spite of that, ``FrozenBuffers`` finds.
    """
    places = frozen_places(model, patterns, frozen)
    return [EvalHold(place.module, place.parent, place.key) for place in places if place.has_statistics]


class Place(NamedTuple):
    """A module with buffers at its place in a model: the path, the parent, and the name that it has there."""

    path: str
    module: nn.Module
    parent: nn.Module | None
    key: str
    has_statistics: bool


def frozen_places(model: nn.Module, patterns: tuple[str, ...], frozen: Iterable[nn.Parameter]) -> Iterator[Place]:
    """Yield each place of a module that has buffers, and whose parameters are frozen."""
    chosen = {id(parameter) for parameter in frozen}
    modules = dict(unwrap_model(model).named_modules(remove_duplicate=False))
    for path, module in modules.items():
        parent_path, _, key = path.rpartition(".")
        parent = modules[parent_path] if path else None
        buffers = [name for name, _ in module.named_buffers(recurse=False)]
        owner = parent if isinstance(parent, ParametrizationList) else module
        own = [id(parameter) for parameter in owner.parameters(recurse=False)]
        paths = [f"{path}.{name}".lstrip(".") for name in buffers]
        matches = any(fnmatchcase(name, pattern) for name in paths for pattern in patterns)
        if buffers and (chosen.issuperset(own) if own else matches):
            yield Place(path, module, parent, key, owner is parent or _has_statistics(module, buffers))


# By module: the holds on it and on its children, because a parent's train() shows that a child was replaced.
_holds: weakref.WeakKeyDictionary[nn.Module, list[EvalHold]] = weakref.WeakKeyDictionary()


def _has_statistics(module: nn.Module, buffers: list[str]) -> bool:
    if "running_mean" in buffers or "running_var" in buffers:
        return True
    return any(isinstance(hook, SpectralNorm) for hook in module._forward_pre_hooks.values())


def _forget(watched: nn.Module, hold: EvalHold) -> None:
    _holds[watched].remove(hold)
    if not _holds[watched]:
        del _holds[watched]


@functools.wraps(_torch_train)
def _train_and_hold(self: nn.Module, mode: bool = True) -> nn.Module:
    result: nn.Module = _torch_train(self, mode)
    for hold in _holds.get(self, ()):
        hold.after_train(self, mode)
    return result


def _install() -> None:
    global _torch_train, _is_installed
    if not _is_installed:
        _torch_train, _is_installed = _Module.train, True
        _Module.train = _train_and_hold


def _uninstall_if_unused() -> None:
    global _is_installed
    # If another library has wrapped our function since, it stays, and does nothing.
    if not _holds and _Module.train is _train_and_hold:
        _Module.train, _is_installed = _torch_train, False
