"""Models whose parameters are sharded: by ``fully_shard``, or by the older FullyShardedDataParallel."""

from torch import nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

__all__ = ["check_has_whole_parameters", "lay_out_shards"]


def check_has_whole_parameters(model: nn.Module) -> None:
    """Raise TypeError where the model's parameters are pieces that do not say what they are pieces of."""
    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        raise TypeError(
            "model must not be wrapped in FullyShardedDataParallel, which makes one tensor of many parameters; "
            "shard it by fully_shard, or wrap it in DistributedDataParallel"
        )


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
