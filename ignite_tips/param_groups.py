"""A model's parameters as an optimizer's param groups, with names."""

from torch.optim import Optimizer

__all__ = ["group_names"]


def group_names(optimizer: Optimizer) -> list[str]:
    """Return each param group's name: its own ``"name"``, or its index where it has none.

    Raises:
        ValueError: if two groups have the same name.

    Example:
        >>> weight, bias = (nn.Parameter(torch.ones(1)) for _ in range(2))
        >>> group_names(torch.optim.SGD([{"params": weight, "name": "head"}, {"params": bias}], lr=0.1))
        ['head', '1']
    """
    names = [str(group.get("name", index)) for index, group in enumerate(optimizer.param_groups)]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"the optimizer's param groups must have different names, got {name!r} twice")
    return names
