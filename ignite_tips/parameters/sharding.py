"""Models sharded by ``fully_shard`` (FSDP2) or FullyShardedDataParallel (FSDP1)."""

from torch import nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

__all__ = ["check_has_whole_parameters", "lay_out_shards"]


def check_has_whole_parameters(model: nn.Module) -> None:
    """Raise TypeError if FullyShardedDataParallel has merged parameters of the model into one tensor."""
    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        raise TypeError(
            "model must not be wrapped in FullyShardedDataParallel, which makes one tensor of many parameters; "
            "shard it by fully_shard, or wrap it in DistributedDataParallel"
        )


def lay_out_shards(model: nn.Module) -> bool:
    """Let each module sharded by ``fully_shard`` have its shards as parameters.

    After a forward pass it may have whole copies instead, and changes to these are lost.

    Returns:
        Whether any part of the model is sharded.
    """
    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in sharded:
        module.reshard()
    return bool(sharded)
