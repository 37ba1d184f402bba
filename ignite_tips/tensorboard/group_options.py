"""The numbers in an optimizer's param groups, under the groups' names."""

from collections.abc import Iterable
from typing import Any

from torch.optim import Optimizer

from ignite_tips._checks import as_number, check_instance, check_names, check_tag, describe
from ignite_tips.parameters.groups import group_names

__all__ = ["GroupOptions"]


class GroupOptions:
    """Reads options such as ``lr`` of the param groups that are trained. Fully frozen groups are left out.

    Attributes:
        places: by tag, the name of the group and the tag without it.

    Args:
        optimizer: the optimizer whose groups are read. Their number, names and values may change between reads.
        options: the name of one option or of several; each is a number, a tensor of one number, or a tuple such as
            Adam's betas.
        tag: a prefix for each name, to tell several optimizers apart.

    Raises:
        TypeError: if an argument has the wrong type, or an option is not a number.
        ValueError: if a group lacks an option, or two groups have the same name.

    Example:
        >>> weight, bias = (nn.Parameter(torch.ones(1)) for _ in range(2))
        >>> optimizer = torch.optim.SGD([{"params": weight, "name": "head"}, {"params": bias}], lr=0.1)
        >>> GroupOptions(optimizer, "lr").read()
        {'lr/head': 0.1, 'lr/1': 0.1}
    """

    def __init__(self, optimizer: Optimizer, options: str | Iterable[str], tag: str | None = None) -> None:
        check_instance("optimizer", optimizer, Optimizer, "a torch Optimizer")
        check_tag(tag)
        self._optimizer = optimizer
        self._options = _checked_options(options)
        self._prefixes = [f"{tag}/{option}/" if tag else f"{option}/" for option in self._options]
        self._names: list[Any] = []
        self._tags: list[str] = []
        self.places: dict[str, tuple[str, str]] = {}
        for name, group in zip(group_names(optimizer), optimizer.param_groups, strict=True):
            for option in self._options:
                _check_option(option, name, group)

    @property
    def prefixes(self) -> dict[str, str]:
        """The prefix of each option's tags."""
        return dict(zip(self._options, self._prefixes, strict=True))

    def names(self) -> list[str]:
        """Return the tags of all groups, frozen ones too; for a tuple, the tag without the index."""
        return [prefix + name for prefix in self._prefixes for name in group_names(self._optimizer)]

    def read(self) -> dict[str, float]:
        """Return the values by tag: the option, a slash, the group's name and, for a tuple, the index."""
        trained, names = [], []
        for index, group in enumerate(self._optimizer.param_groups):
            for parameter in group["params"]:
                if parameter.requires_grad:
                    trained.append(group)
                    names.append(group.get("name", index))
                    break
        if names != self._names:
            self._tags = self._name_all(trained)
            self._names = names
        values: list[float] = []
        for option in self._options:
            for group in trained:
                value = group[option]
                if type(value) is float:
                    values.append(value)
                elif isinstance(value, tuple | list):
                    values.extend(map(float, value))
                else:
                    values.append(float(value))
        return dict(zip(self._tags, values, strict=True))

    def _name_all(self, trained: list[dict[str, Any]]) -> list[str]:
        names = dict(zip(map(id, self._optimizer.param_groups), group_names(self._optimizer), strict=True))
        tags: list[str] = []
        self.places = {}
        for option, prefix in zip(self._options, self._prefixes, strict=True):
            for group in trained:
                tag = prefix + names[id(group)]
                _check_option(option, names[id(group)], group)
                value = group[option]
                ends = [f"/{index}" for index in range(len(value))] if isinstance(value, tuple | list) else [""]
                tags += [tag + end for end in ends]
                self.places |= {tag + end: (names[id(group)], prefix[:-1] + end) for end in ends}
        return tags


def _checked_options(options: str | Iterable[str]) -> tuple[str, ...]:
    names = check_names("param_names", options)
    if not names:
        raise ValueError("param_names must have at least one name, got none")
    return tuple(dict.fromkeys(names))


def _check_option(option: str, name: str, group: dict[str, Any]) -> None:
    if option not in group:
        known = ", ".join(key for key in group if key not in ("params", "name"))
        raise ValueError(
            f"param_names must be options of every param group, got {option!r}; group {name!r} has: {known}"
        )
    value = group[option]
    for member in value if isinstance(value, tuple | list) else (value,):
        if as_number(member) is None:
            raise TypeError(f"param_names must be numeric options, got {option!r}, which is {describe(value)}")
