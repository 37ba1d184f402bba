"""A table of a model's parameters: the group, learning rate and state of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ignite_tips._checks import check_integer
from ignite_tips._tables import Column, Row, draw_html, draw_text, line_width, show_lrs, show_size
from ignite_tips.parameters.groups import group_names, learning_rates
from ignite_tips.parameters.selection import check_belongs, named_parameters, unwrap_model

__all__ = ["ParamGroupTable", "ParameterRow", "param_group_table"]

_COLUMNS = (Column("name"), Column("shape"))
_GROUP_COLUMNS = (Column("group"), Column("lr"))
_NO_GROUP = "(none)"


@dataclass(frozen=True)
class ParameterRow:
    """One parameter of a model.

    Attributes:
        name: its first name.
        shape: its size as text.
        is_frozen: whether it does not require a gradient.
        other_names: its further names, if layers share it.
        group: the name of the optimizer's group that has it; empty if none does.
        lr: the learning rate of that group.
        base_lr: that learning rate before any schedule changed it, as during a warm-up.
    """

    name: str
    shape: str
    is_frozen: bool
    other_names: tuple[str, ...] = ()
    group: str = ""
    lr: float = 0.0
    base_lr: float = 0.0


@dataclass(frozen=True)
class ParamGroupTable:
    """What ``param_group_table`` returns. It prints as a table, and a notebook shows it as one.

    Attributes:
        rows: every parameter once, in the order of the model.
        has_groups: whether an optimizer's groups are shown.
        depth: as for ``param_group_table``.
    """

    rows: tuple[ParameterRow, ...]
    has_groups: bool
    depth: int | None = None

    def __str__(self) -> str:
        return "\n".join(draw_text(self._columns, self._drawn_rows(), line_width()))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return draw_html(self._columns, self._drawn_rows())

    @property
    def _columns(self) -> list[Column]:
        return [*_COLUMNS, *_GROUP_COLUMNS * self.has_groups, Column("frozen")]

    def _drawn_rows(self) -> list[Row]:
        merged: dict[str, list[ParameterRow]] = {}
        for row in self.rows:
            merged.setdefault(_path(row.name, self.depth), []).append(row)
        return [self._draw(path, rows) for path, rows in merged.items()]

    def _draw(self, path: str, rows: Sequence[ParameterRow]) -> Row:
        frozen = {row.is_frozen for row in rows}
        cells = [path, f"{len(rows)} tensors"]
        if len(rows) == 1:
            cells = [" = ".join((rows[0].name, *rows[0].other_names)), rows[0].shape]
        if self.has_groups:
            grouped = [row for row in rows if row.group]
            cells.append(", ".join(dict.fromkeys(row.group or _NO_GROUP for row in rows)))
            cells.append(show_lrs([row.lr for row in grouped], [row.base_lr for row in grouped]))
        cells.append("partly" if len(frozen) > 1 else "yes" if True in frozen else "")
        return Row(cells, is_dimmed=frozen == {True})


def param_group_table(
    model: nn.Module, optimizer: Optimizer | None = None, *, depth: int | None = None
) -> ParamGroupTable:
    """Return a table of all parameters: name, shape, group, learning rate, and whether each is frozen.

    It prints as text, and a notebook shows it. A parameter that layers share has one row, with all its names.

    Args:
        model: any module; the names are those of the module inside a wrapper.
        optimizer: its groups and learning rates are shown; without one, the table leaves out these columns. If a
            schedule has changed a learning rate, the one it started from is beside it.
        depth: names of more than this many parts share a row, ≥ 1: ``body.*`` for ``depth=1``. None shows each.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if the model has no parameters, the optimizer has none of them, two groups have the same name, or
            ``depth`` is below 1.

    Example:
        >>> from ignite_tips import param_groups
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        >>> _ = net[0].requires_grad_(False)
        >>> sgd = torch.optim.SGD(param_groups(net, {"0.*": {"lr": 0.01}}, default={}), lr=0.1)
        >>> print(param_group_table(net, sgd))
        name      shape  group    lr    frozen
        0.weight  3×2    0        0.01  yes
        0.bias    3      0        0.01  yes
        1.weight  1×3    default  0.1
        1.bias    1      default  0.1
    """
    named = named_parameters(model)
    depth = None if depth is None else check_integer("depth", depth, ge=1)
    placed: dict[int, dict[str, Any]] = {}
    if optimizer is not None:
        check_belongs(optimizer, model)
        for name, group in zip(group_names(optimizer), optimizer.param_groups, strict=True):
            lr, base_lr = learning_rates(group)
            place = {"group": name, "lr": lr, "base_lr": base_lr}
            placed |= {id(parameter): place for parameter in group["params"]}
    others = _other_names(model, named)
    rows = [
        ParameterRow(
            name,
            "not yet known" if isinstance(parameter, nn.UninitializedParameter) else show_size(parameter.shape),
            not parameter.requires_grad,
            tuple(others[id(parameter)]),
            **placed.get(id(parameter), {}),
        )
        for name, parameter in named.items()
    ]
    return ParamGroupTable(tuple(rows), optimizer is not None, depth)


def _other_names(model: nn.Module, named: Mapping[str, nn.Parameter]) -> dict[int, list[str]]:
    others: dict[int, list[str]] = {id(parameter): [] for parameter in named.values()}
    for name, parameter in unwrap_model(model).named_parameters(remove_duplicate=False):
        if name not in named:
            others[id(parameter)].append(name)
    return others


def _path(name: str, depth: int | None) -> str:
    parts = name.split(".")
    return name if depth is None or len(parts) <= depth else ".".join([*parts[:depth], "*"])
