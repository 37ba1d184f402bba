"""Count what a rank sends: collectives and their bytes."""

from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Traffic"]

_GROUP_ARGUMENTS = {"process_group", "group_name"}  # an operation that takes one communicates


class Traffic(TorchDispatchMode):
    """Counts this rank's collectives while it is entered.

    Attributes:
        collectives: how many there were.
        bytes: of the larger of what each takes and gives, in sum.
    """

    def __init__(self) -> None:
        super().__init__()
        self.collectives = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and count it if it is a collective."""
        if any(issubclass(each, DTensor) for each in types):
            return NotImplemented  # DTensor's own dispatch comes here again with this rank's parts
        result = func(*args, **(kwargs or {}))
        if any(argument.name in _GROUP_ARGUMENTS for argument in func._schema.arguments):
            self.collectives += 1
            self.bytes += max(map(_count_bytes, (*args, result)))
        return result


def _count_bytes(tensors: Any) -> int:
    return sum(leaf.nbytes for leaf in tree_leaves(tensors) if isinstance(leaf, Tensor))
