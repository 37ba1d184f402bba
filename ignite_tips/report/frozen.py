"""Handlers that freeze what was not meant."""

from collections.abc import Iterator

from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from ignite_tips.core.findings import Finding
from ignite_tips.core.roles import FreezesParameters
from ignite_tips.core.wiring import roles_of
from ignite_tips.core.wrapped_optimizers import parameter_ids
from ignite_tips.parameters.selection import unwrap_model

__all__ = ["find_wrongly_frozen"]


def find_wrongly_frozen(trainer: Engine, models: list[nn.Module], optimizers: list[Optimizer]) -> Iterator[Finding]:
    """Yield handlers that freeze a model which does not train, or statistics that never saw data.

    Args:
        trainer: the engine that trains.
        models: those that are known, without wrappers.
        optimizers: those that are known.
    """
    trained = parameter_ids(*optimizers)
    for role in roles_of(FreezesParameters, trainer):
        given = role.model() if role.model else None
        model = given and unwrap_model(given)
        if model is None or model not in models:  # a part of one, whose other parts train
            continue
        if optimizers and trained.isdisjoint(map(id, model.parameters())):
            text = (
                f"{role.handler_name} freezes parts of a {type(model).__name__} of which no optimizer has a parameter, "
                "so no update changes; give it the instance that trains"
            )
            yield Finding("another model", text)
        else:
            yield from _unseen_statistics(role, model)


def _unseen_statistics(role: FreezesParameters, model: nn.Module) -> Iterator[Finding]:
    held = [parameter for ref in role.parameters.values() if (parameter := ref()) is not None]
    is_due = Events.STARTED.name in role.events and not role.was_run
    frozen = {parameter for parameter in held if is_due or not parameter.requires_grad}
    for name, module in model.named_modules():
        if not frozen.isdisjoint(module.parameters(recurse=False)) and _saw_no_data(module):
            text = (
                f"{role.handler_name} freezes {name or 'the model'} ({type(module).__name__}) with running statistics "
                "that never saw data, so it normalizes by mean 0 and variance 1; load pretrained weights before, or "
                "leave it out of the patterns"
            )
            yield Finding("unseen statistics", text)


def _saw_no_data(module: nn.Module) -> bool:
    """Whether a module's running statistics are as created. Old pretrained weights lack the count of batches."""
    count, mean, variance = (
        getattr(module, name, None) for name in ("num_batches_tracked", "running_mean", "running_var")
    )
    if not (isinstance(count, Tensor) and isinstance(mean, Tensor) and isinstance(variance, Tensor)):
        return False
    if is_lazy(mean):  # without data it has no shape either
        return True
    return not count and not mean.any() and bool((variance == 1).all())
