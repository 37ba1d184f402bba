"""Rebuild the reducer of a DistributedDataParallel wrapper in place after a freeze or an unfreeze.

DDP decides which gradients to average when it is built. A parameter frozen later causes an error in the next
iteration. The gradient of one unfrozen later is never averaged, and the replicas drift apart without an error.
"""

import zlib
from collections.abc import Iterable
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState
from torch.nn.parallel import DistributedDataParallel

from ignite_tips._checks import check_instance
from ignite_tips.ranks import same_on_all_ranks

__all__ = ["check_rewrappable", "find_wrappers", "rewrap_model"]


def rewrap_model(ddp_model: nn.Module) -> None:
    """Rebuild the reducer of a DistributedDataParallel wrapper after ``requires_grad`` of its parameters changed.

    Call it on every rank, between an update and the next forward pass. The wrapper keeps its options, its hooks and its
    communication hook, and the gradients that are there. A PowerSGD hook restarts with two uncompressed iterations,
    because its state belongs to the old buckets. If no parameter is left to train, DDP is idle until the next call.

    Args:
        ddp_model: the wrapper, as ``DistributedDataParallel(...)`` or ``wrap_model`` returned it.

    Raises:
        TypeError: if it is not a DistributedDataParallel.
        RuntimeError: if the ranks train different parameters, or the wrapper has an option with which it cannot be
            rebuilt: ``mixed_precision``, delayed all-reduces, optimizers in the backward pass.

    Example:
        ddp = wrap_model(model)
        frozen = freeze_parameters(ddp, "body.*")
        rewrap_model(ddp)
    """
    check_instance("ddp_model", ddp_model, DistributedDataParallel, "a DistributedDataParallel")
    ddp: Any = ddp_model
    check_rewrappable(ddp)
    _check_same_on_all_ranks(ddp)
    if not any(parameter.requires_grad for parameter in ddp._module_parameters):
        return  # a reducer needs a parameter; nothing calls the old one's hooks
    builtin_hook = _builtin_comm_hook(ddp)
    # DDP builds its reducer by the same steps when it is unpickled. Calling its constructor again would lose the
    # wrapper's hooks and the user's attributes.
    parameters, expect_sparse_gradient = ddp._build_params_for_reducer()
    names = ddp._build_debug_param_to_name_mapping(parameters)
    ddp._ddp_init_helper(parameters, expect_sparse_gradient, names, ddp.static_graph)
    ddp._has_rebuilt_buckets = False
    if ddp.static_graph:
        ddp._static_graph_delay_allreduce_enqueued = False
        ddp.reducer._set_static_graph()
        ddp.logger._set_static_graph()
    _put_back_comm_hooks(ddp, builtin_hook)


def find_wrappers(model: nn.Module, parameters: Iterable[nn.Parameter]) -> list[DistributedDataParallel]:
    """Return the DistributedDataParallel wrappers in the model that average gradients of any of these parameters."""
    wanted = {id(parameter) for parameter in parameters}
    wrappers = [module for module in model.modules() if isinstance(module, DistributedDataParallel)]
    return [wrapper for wrapper in wrappers if any(id(parameter) in wanted for parameter in wrapper.parameters())]


def check_rewrappable(ddp_model: DistributedDataParallel) -> None:
    """Raise RuntimeError if an option of the wrapper does not allow its reducer to be rebuilt."""
    reasons = {
        "mixed_precision=": ddp_model.mixed_precision is not None,
        "delay_all_reduce_named_params=": bool(ddp_model._delay_all_reduce_params),
        "an optimizer in the backward pass": any(
            hasattr(parameter, "_in_backward_optimizers") for parameter in ddp_model._module_parameters
        ),
        "the reducer of compiled autograd": ddp_model._use_python_reducer,
    }
    for reason, holds in reasons.items():
        if holds:
            raise RuntimeError(
                f"DistributedDataParallel with {reason} cannot follow a freeze or unfreeze; "
                "freeze before wrapping and keep it frozen, or wrap without that option"
            )


def _check_same_on_all_ranks(ddp: Any) -> None:
    trainable = bytes(parameter.requires_grad for parameter in ddp._module_parameters)
    if not same_on_all_ranks(zlib.crc32(trainable), group=ddp.process_group):
        raise RuntimeError(
            "every rank must freeze and unfreeze the same parameters at the same moment, but here they differ: "
            f"rank {dist.get_rank()} trains {sum(trainable)} of {len(trainable)}"
        )


def _builtin_comm_hook(ddp: Any) -> Any:
    # DDP keeps no reference to a built-in hook, only its name for the log.
    name = ddp._get_ddp_logging_data().get("comm_hook", "")
    hooks: Any = dist.BuiltinCommHookType  # type: ignore[attr-defined]  # its stub leaves it out
    return hooks.__members__.get(name.removeprefix("BuiltinCommHookType."))


def _put_back_comm_hooks(ddp: Any, builtin_hook: Any) -> None:
    if builtin_hook is not None:
        ddp._register_builtin_comm_hook(builtin_hook)
    hooks, ddp._comm_hooks = ddp._comm_hooks, []
    for hook, state in hooks:
        if isinstance(state, PowerSGDState):
            for memory in (state.error_dict, state.p_memory_dict, state.q_memory_dict):
                memory.clear()
            # The buckets get their final shapes in the first two iterations, which must be uncompressed.
            state.iter = min(state.iter, max(state.start_powerSGD_iter - 2, 0))
        ddp.register_comm_hook(state, hook)
