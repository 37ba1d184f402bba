"""Other libraries' results for a model: torchinfo's count of operations, torchsummary's table."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torchinfo
import torchsummary
from torch import nn
from torchinfo.torchinfo import clear_cached_forward_pass

from ignite_tips.summary.preserve_state import preserved

__all__ = ["run_with_torchinfo", "torchsummary_table"]


class _Call(nn.Module):
    """Calls a model with any arguments: torchinfo would take the model's keywords for its own."""

    def __init__(self, model: nn.Module, args: Sequence[Any], keywords: Mapping[str, Any]) -> None:
        super().__init__()
        self.model = model
        self._arguments = args, keywords

    def forward(self, _: torch.Tensor) -> Any:
        args, keywords = self._arguments
        return self.model(*args, **keywords)


def run_with_torchinfo(model: nn.Module, args: Sequence[Any], keywords: Mapping[str, Any]) -> int | None:
    """Run ``model`` in eval mode under torchinfo and return its mult-adds, or None if torchinfo fails.

    It fails if the model fails, and on some kinds of output. The caller restores the model's state.
    """
    call = _Call(model, args, keywords)
    try:
        found = torchinfo.summary(call, input_data=torch.zeros(1), mode="eval", verbose=0, cache_forward_pass=False)
    except Exception:  # the count is then shown as unknown; our own table does not need it
        return None
    finally:
        clear_cached_forward_pass()  # torchinfo keeps the modules of every model it has seen
    return int(found.total_mult_adds)


def torchsummary_table(model: nn.Module, args: Sequence[Any], device: torch.device) -> str:
    """Return the table that torchsummary prints for inputs with the sizes of ``args``.

    Raises:
        RuntimeError: if torchsummary fails, as it does for outputs that are not tensors.
    """
    if not args or not all(isinstance(argument, torch.Tensor) and argument.is_floating_point() for argument in args):
        raise RuntimeError("torchsummary takes only tensors of floats; leave backend out to see this model")
    sizes = [tuple(argument.shape[1:]) for argument in args]
    printed = io.StringIO()
    with contextlib.ExitStack() as stack:
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))
        stack.enter_context(preserved(model))
        stack.enter_context(torch.no_grad())
        stack.enter_context(contextlib.redirect_stdout(printed))
        try:
            torchsummary.summary(model, sizes, batch_size=len(args[0]), device=device.type)
        except Exception as error:  # it fails in many undocumented ways
            raise RuntimeError(
                f"torchsummary fails on this model ({type(error).__name__}: {error}); leave backend out to see it"
            ) from error
    return printed.getvalue().strip()
