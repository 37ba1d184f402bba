"""What is said of gradients that are not finite."""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ignite_tips.gradients.norms import nonfinite_kinds
from ignite_tips.parameters.selection import unwrap_model

__all__ = ["describe_buffers", "describe_gradients", "first_of", "must_be_finite"]

_NAMED = 5  # parameters that a message names
_PLACE = re.compile(r"\bparameter \d+ of group ")


def must_be_finite(found: str, update: str, *, has_model: bool, left: str = "") -> str:
    """Return the error's sentence: what was found in which update, what else is left of it, where names come from.

    Example:
        >>> must_be_finite("NaN in parameter 0 of group 0", "update 1", has_model=False).split("; ")[-1]
        'give the clipper model=... to have parameters named'
    """
    sentence = (
        f"gradients must be finite, got {found} in {update}; parameters and optimizer state are as before it{left}"
    )
    if has_model or not _PLACE.search(found):
        return sentence
    return f"{sentence}; give the clipper model=... to have parameters named"


def first_of(found: Sequence[str]) -> str:
    """Return the first few, and how many more there are.

    Example:
        >>> first_of(list("abcdefg"))
        'a, b, c, d, e and 2 more'
    """
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return ", ".join(found[:_NAMED]) + more


def describe_gradients(names: Mapping[Tensor, str]) -> str:
    """Say which of the parameters, by name, have a gradient that is not finite."""
    found = [
        f"{kinds} in {name}"
        for parameter, name in names.items()
        if parameter.grad is not None and (kinds := nonfinite_kinds(parameter.grad))
    ]
    return first_of(found) or "a norm too large for its dtype, or some on another rank"


def describe_buffers(model: nn.Module | None) -> str:
    """Say what stays though the update is not made, such as BatchNorm's running statistics of a NaN batch."""
    buffers = {} if model is None else dict(unwrap_model(model).named_buffers())
    found = [f"{kinds} in {name}" for name, buffer in buffers.items() if (kinds := nonfinite_kinds(buffer))]
    return f"; the forward pass left {first_of(found)}" if found else ""
