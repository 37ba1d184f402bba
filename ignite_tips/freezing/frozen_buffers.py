"""Put back the buffers of frozen modules that an iteration changes, whatever changes them."""

from collections.abc import Iterable
from typing import NamedTuple

import ignite.distributed as idist
import torch
from torch import nn

from ignite_tips.freezing.held_statistics import frozen_places

__all__ = ["FrozenBuffers"]

_COMPARED = 2  # iterations; the first may have begun before the freeze


class FrozenBuffers:
    """Keeps the buffers of frozen modules through a trainer's iterations.

    Eval mode does not hold every buffer: a quantizer's observer, a codebook or a counter may change in both modes, and
    which modules heed the mode shows only when they run. So each buffer that the first iterations change is put back
    after these and all later ones. To compare all of them in each iteration would wait for the device.

    Only those in the model's state dict: the others are caches. With several ranks, the buffers of modules that are
    held in eval mode are left alone, because DistributedDataParallel itself replaces them by rank 0's.

    Example:
        >>> model = nn.BatchNorm1d(2)
        >>> buffers = FrozenBuffers(model, ("*",), model.parameters())
        >>> buffers.save()
        >>> _ = model(torch.randn(4, 2))
        >>> buffers.put_back()
        >>> model.running_mean
        tensor([0., 0.])
    """

    def __init__(self, model: nn.Module, patterns: tuple[str, ...], frozen: Iterable[nn.Parameter]) -> None:
        has_peers = idist.get_world_size() > 1
        self._watched = {
            (place.module, name)
            for place in frozen_places(model, patterns, frozen)
            for name, _ in place.module.named_buffers(recurse=False)
            if not (has_peers and place.has_statistics)
            if name not in place.module._non_persistent_buffers_set
        }
        self._changed: set[tuple[nn.Module, str]] = set()
        self._compared = 0
        self._saved: list[_SavedBuffer] = []

    def save(self) -> None:
        """Keep what the buffers are now, at the start of an iteration."""
        found = ((module, name, _buffer(module, name)) for module, name in self._watched)
        self._saved = [
            _SavedBuffer(module, name, buffer, buffer.detach().clone())
            for module, name, buffer in found
            if buffer is not None and _is_plain(buffer)
        ]

    def put_back(self) -> None:
        """Put back what has changed since ``save``; without one before, do nothing."""
        saved, self._saved = self._saved, []
        if self._compared < _COMPARED:
            saved = [each for each in saved if each.has_changed()]
            self._changed.update((each.module, each.name) for each in saved)
            self._compared += 1
            if self._compared == _COMPARED:
                self._watched = self._changed
        for each in saved:
            each.put_back()


class _SavedBuffer(NamedTuple):
    module: nn.Module
    name: str
    buffer: torch.Tensor
    values: torch.Tensor

    def has_changed(self) -> bool:
        now = _buffer(self.module, self.name)
        return now is None or not _same(now, self.values)

    @torch.no_grad()
    def put_back(self) -> None:
        now = _buffer(self.module, self.name)
        if now is self.buffer and now.shape == self.values.shape:
            now.copy_(self.values)
        else:  # resized, or another tensor
            setattr(self.module, self.name, self.values)


def _buffer(module: nn.Module, name: str) -> torch.Tensor | None:
    return dict(module.named_buffers(recurse=False)).get(name)


def _is_plain(buffer: torch.Tensor) -> bool:
    is_strided = type(buffer) is torch.Tensor and buffer.layout is torch.strided
    return is_strided and not buffer.is_quantized and not buffer.is_meta


def _same(first: torch.Tensor, second: torch.Tensor) -> bool:
    if (first.shape, first.dtype, first.device) != (second.shape, second.dtype, second.device):
        return False
    # By their bits, because NaN does not equal itself.
    return torch.equal(first.flatten().view(torch.uint8), second.flatten().view(torch.uint8))
