"""Other libraries' tables of a model: torchinfo's and torchsummary's, imported only when asked for."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ignite_tips.summary.preserve_state import preserved

__all__ = ["BACKENDS", "backend_table"]

BACKENDS = ("torchinfo", "torchsummary")


def backend_table(
    backend: str, model: nn.Module, args: Sequence[Any], keywords: Mapping[str, Any], device: torch.device
) -> str:
    """Return the table that a library of ``BACKENDS`` makes of ``model``, which does not change.

    Raises:
        RuntimeError: if the library fails, as torchsummary does for outputs that are not tensors.
    """
    if backend == "torchsummary" and not (args and all(map(_has_floats, args))):
        raise RuntimeError("torchsummary takes only tensors of floats; leave backend out to see this model")
    with preserved(model), torch.no_grad():
        try:
            if backend == "torchinfo":
                return _torchinfo_table(model, args, keywords)
            return _torchsummary_table(model, args, device)
        except Exception as error:  # both fail in many undocumented ways
            raise RuntimeError(
                f"{backend} fails on this model ({type(error).__name__}: {error}); leave backend out to see it"
            ) from error


def _has_floats(argument: Any) -> bool:
    return isinstance(argument, torch.Tensor) and argument.is_floating_point()


class _Call(nn.Module):
    """Calls a model with any arguments: torchinfo would take the model's keywords for its own."""

    def __init__(self, model: nn.Module, args: Sequence[Any], keywords: Mapping[str, Any]) -> None:
        super().__init__()
        self.model = model
        self._arguments = args, keywords

    def forward(self, _: torch.Tensor) -> Any:
        args, keywords = self._arguments
        return self.model(*args, **keywords)


def _torchinfo_table(model: nn.Module, args: Sequence[Any], keywords: Mapping[str, Any]) -> str:
    import torchinfo
    from torchinfo.torchinfo import clear_cached_forward_pass

    call = _Call(model, args, keywords)
    try:
        found = torchinfo.summary(call, input_data=torch.zeros(1), mode="eval", verbose=0, cache_forward_pass=False)
        return str(found)
    finally:
        clear_cached_forward_pass()  # torchinfo keeps the modules of every model it has seen


def _torchsummary_table(model: nn.Module, args: Sequence[Any], device: torch.device) -> str:
    import torchsummary

    sizes = [tuple(argument.shape[1:]) for argument in args]
    printed = io.StringIO()
    with contextlib.ExitStack() as stack:
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))
        stack.enter_context(contextlib.redirect_stdout(printed))
        torchsummary.summary(model, sizes, batch_size=len(args[0]), device=device.type)
    return printed.getvalue().strip()
