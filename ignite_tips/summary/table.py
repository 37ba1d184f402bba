"""A model's layers and totals, and their table as text."""

import re
import shutil
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ignite_tips._checks import check_integer

__all__ = ["LayerSummary", "ModelSummary"]

_RIGHT_ALIGNED = ("Params", "LR")
_NO_TERMINAL = (120, 24)


@dataclass(frozen=True)
class LayerSummary:
    """One module of a model.

    Attributes:
        name: the path in the model, empty for the model itself.
        type: the class.
        input_shape: the shapes of the inputs in the first call, empty if it was not called.
        output_shape: the shapes of the outputs of that call.
        parameters: how many numbers its own parameters have, without its children's and without those that an earlier
            layer shares.
        trainable_parameters: how many of them require gradients.
        shared_with: the earlier layer with the same parameters, or with this same module; empty if there is none.
        groups: the names of the optimizer's param groups with its parameters.
        lrs: the learning rates of these groups.
    """

    name: str
    type: str
    input_shape: str
    output_shape: str
    parameters: int
    trainable_parameters: int
    shared_with: str = ""
    groups: tuple[str, ...] = ()
    lrs: tuple[float, ...] = ()

    @property
    def depth(self) -> int:
        """How many modules it is nested in."""
        return self.name.count(".") + 1 if self.name else 0


@dataclass(frozen=True)
class ModelSummary:
    """A model's layers and totals; its text is a table.

    Attributes:
        layers: every module, the model itself first, in the order of definition.
        total_parameters: ``sum(p.numel())`` over the model's parameters, each counted once.
        trainable_parameters: how many of them require gradients.
        parameter_bytes: the memory of the parameters.
        trainable_bytes: the memory of the trainable parameters, and so of their gradients.
        buffer_bytes: the memory of the buffers.
        input_bytes: the memory of the input.
        activation_bytes: the memory of the outputs of the innermost layers: an estimate of what training keeps.
        mult_adds: pairs of a multiplication and an addition in the matrix products, convolutions and attention of one
            run, as ``torch.utils.flop_counter`` counts them; None if it counts none or fails.
        has_groups: whether an optimizer's groups are shown.
        text: another library's table, shown instead of this one.
    """

    layers: tuple[LayerSummary, ...]
    total_parameters: int
    trainable_parameters: int
    parameter_bytes: int
    trainable_bytes: int
    buffer_bytes: int
    input_bytes: int
    activation_bytes: int
    mult_adds: int | None = None
    has_groups: bool = False
    text: str = ""

    def __str__(self) -> str:
        return self.text or self.table()

    def table(self, *, depth: int | None = 3, width: int | None = None) -> str:
        """Return the table as text.

        Args:
            depth: show layers nested in at most this many modules, ≥ 1; deeper ones count in the layer that contains
                them. None shows all.
            width: the maximum line length, in characters, ≥ 60; None uses the terminal's width.

        Raises:
            TypeError, ValueError: if an argument is not as above.
        """
        width = check_integer(
            "width", shutil.get_terminal_size(_NO_TERMINAL).columns if width is None else width, ge=60
        )
        rows = self._rows(depth, lambda layer: "  " * layer.depth + (layer.name.rpartition(".")[2] or "(model)"))
        widths = _fit([max(map(len, column)) for column in zip(*rows, strict=True)], [*map(len, rows[0])], width)
        lines = ["  ".join(_cell(*cell) for cell in zip(row, widths, rows[0], strict=True)).rstrip() for row in rows]
        rule = "-" * max(map(len, lines))
        totals = [line for total in self.totals() for line in textwrap.wrap(total, width)]
        return "\n".join([lines[0], rule, *lines[1:], rule, *totals])

    def markdown(self, *, depth: int | None = 3) -> str:
        """Return the table in Markdown, for TensorBoard."""
        if self.text:
            return "\n".join(f"    {line}" for line in self.text.splitlines())
        header, *rows = self._rows(depth, lambda layer: f"`{layer.name or '(model)'}`", group="`{}`")
        rules = ["---:" if title in _RIGHT_ALIGNED else "---" for title in header]
        lines = ["| " + " | ".join(row) + " |" for row in (header, rules, *rows)]
        return "\n".join(lines) + "\n\n" + "\n\n".join(self.totals())

    def totals(self) -> list[str]:
        """Return the lines with the totals, below the table."""
        frozen = self.total_parameters - self.trainable_parameters
        mult_adds = f"; {_short(self.mult_adds)} mult-adds" if self.mult_adds else ""
        training = self.parameter_bytes + self.trainable_bytes + self.buffer_bytes + self.input_bytes
        return [
            f"Parameters: {self.total_parameters:,} ({self.trainable_parameters:,} trainable, {frozen:,} frozen)"
            + mult_adds,
            f"Memory: {_memory(self.parameter_bytes)} parameters, {_memory(self.activation_bytes)} activations, "
            f"{_memory(self.input_bytes)} input; about {_memory(training + self.activation_bytes)} with gradients",
        ]

    def _rows(self, depth: int | None, name: Callable[[LayerSummary], str], group: str = "{}") -> list[list[str]]:
        groups = ["Group", "LR"] if self.has_groups else []
        rows = [["Layer", "Type", "Input", "Output", "Params", "Trainable", *groups]]
        for layer in self._visible(depth):
            groups = [
                ", ".join(map(group.format, layer.groups)) or _no_group(layer),
                ", ".join(f"{lr:g}" for lr in layer.lrs),
            ]
            shapes = [_compact(layer.input_shape), _compact(layer.output_shape)]
            columns = [name(layer), layer.type, *shapes, _parameters(layer), _trainable(layer), *groups]
            rows.append(columns[: len(rows[0])])
        return rows

    def _visible(self, depth: int | None) -> list[LayerSummary]:
        if depth is None:
            return list(self.layers)
        depth = check_integer("depth", depth, ge=1)
        visible: list[LayerSummary] = []
        for layer in self.layers:
            if layer.depth <= depth:
                visible.append(layer)
            else:  # a module's layers follow it
                visible[-1] = _merge(visible[-1], layer)
        return visible


def _merge(outer: LayerSummary, inner: LayerSummary) -> LayerSummary:
    lrs = dict(zip(outer.groups + inner.groups, outer.lrs + inner.lrs, strict=True))
    return replace(
        outer,
        parameters=outer.parameters + inner.parameters,
        trainable_parameters=outer.trainable_parameters + inner.trainable_parameters,
        groups=tuple(lrs),
        lrs=tuple(lrs.values()),
    )


def _trainable(layer: LayerSummary) -> str:
    if not layer.parameters:
        return ""
    if layer.trainable_parameters == layer.parameters:
        return "yes"
    return "partly" if layer.trainable_parameters else "frozen"


def _parameters(layer: LayerSummary) -> str:
    if layer.parameters:
        return f"{layer.parameters:,}"
    return f"= {layer.shared_with}" if layer.shared_with else ""


def _no_group(layer: LayerSummary) -> str:
    return "(none)" if layer.trainable_parameters else ""


def _compact(shapes: str) -> str:
    return re.sub(r"\[([\d, ]+)\]", lambda match: match[1].replace(", ", "\u00d7"), shapes)  # 64x32, with a real sign


def _fit(widths: list[int], least: Sequence[int], width: int) -> list[int]:
    """Shrink the widest columns, to their titles at least, until all fit into ``width``."""
    excess = sum(widths) + 2 * (len(widths) - 1) - width
    while excess > 0 and widths != list(least):
        widest = max(range(len(widths)), key=lambda column: (widths[column] > least[column], widths[column]))
        widths[widest] -= 1
        excess -= 1
    return widths


def _cell(text: str, width: int, title: str) -> str:
    if len(text) > width:
        text = text[: width - 1] + "…"
    return text.rjust(width) if title in _RIGHT_ALIGNED else text.ljust(width)


def _short(number: float) -> str:
    for unit in ("", " thousand", " million", " billion"):
        if number < 1000:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:,.3g} trillion"


def _memory(size: float) -> str:
    if size < 1024:
        return f"{size:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:,.1f} TiB"
