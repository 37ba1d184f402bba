"""Models that ``fully_shard`` has sharded."""

from torch import nn
from torch.distributed.fsdp import FSDPModule

__all__ = ["lay_out_shards"]


def lay_out_shards(model: nn.Module) -> bool:
    """Put the shards back into modules that hold whole copies of their parameters, as they may after a forward pass.

    What happens to the copies is forgotten; the shards are the parameters.

    Returns:
        Whether any part of the model is sharded.
    """
    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in sharded:
        module.reshard()
    return bool(sharded)
