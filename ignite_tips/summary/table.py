"""A model's layers and totals, and their table as text, HTML and Markdown."""

import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
from html import escape

from ignite_tips._checks import check_integer
from ignite_tips._tables import Column, Row, draw_html, draw_text, line_width, show_lrs, show_size

__all__ = ["LayerSummary", "ModelSummary"]

_COLUMNS = [Column(title, is_number=title == "Params") for title in ("Layer", "Type", "Input", "Output", "Params")]
_COLUMNS += [Column("Trainable")]
_GROUP_COLUMNS = [Column("Group"), Column("LR", is_number=True)]


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
        shared_with: the earlier layer with the same parameters, or with some of them, or with this same module; empty
            if there is none.
        groups: the names of the optimizer's param groups with the parameters that are counted here.
        lrs: the learning rates of these groups.
        base_lrs: their learning rates before any schedule changed them, as during a warm-up.
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
    base_lrs: tuple[float, ...] = ()

    @property
    def depth(self) -> int:
        """How many modules it is nested in."""
        return self.name.count(".") + 1 if self.name else 0


@dataclass(frozen=True)
class ModelSummary:
    """A model's layers and totals. It prints as a table, and a notebook shows it as one.

    Attributes:
        layers: every module, the model itself first, in the order of definition. A module that is used at several
            places has its own layers at the first one only.
        total_parameters: ``sum(p.numel())`` over the model's parameters, each counted once.
        trainable_parameters: how many of them require gradients.
        parameter_bytes: the memory of the parameters.
        trainable_bytes: the memory of the trainable parameters, and so of their gradients.
        buffer_bytes: the memory of the buffers.
        input_bytes: the memory of the input.
        activation_bytes: the memory of the outputs of the innermost layers: an estimate of what training keeps.
        mult_adds: pairs of a multiplication and an addition in the matrix products, convolutions, recurrent layers and
            attention of one run: half the FLOPs of ``torch.utils.flop_counter``, and what it misses. None if it counts
            none or fails.
        has_groups: whether an optimizer's groups are shown.
        text: another library's table, shown instead of this one.
        depth: the depth at which it is printed and shown, as for ``table``.
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
    depth: int | None = 3

    def __str__(self) -> str:
        return self.text or self.table(depth=self.depth)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        if self.text:
            return f"<pre>{escape(self.text)}</pre>"
        return draw_html(self._columns, self._rows(self.depth, _last_name), self.totals())

    def table(self, *, depth: int | None = 3, width: int | None = None) -> str:
        """Return the table as text.

        Args:
            depth: show layers nested in at most this many modules, ≥ 1; deeper ones count in the layer that contains
                them. None shows all.
            width: the maximum line length, in characters, ≥ 60; None uses the terminal's width.

        Raises:
            TypeError, ValueError: if an argument is not as above.
        """
        width = line_width() if width is None else check_integer("width", width, ge=60)
        header, *lines = draw_text(self._columns, self._rows(depth, _last_name), width)
        rule = "-" * max(map(len, [header, *lines]))
        totals = [line for total in self.totals() for line in textwrap.wrap(total, width)]
        return "\n".join([header, rule, *lines, rule, *totals])

    def markdown(self, *, depth: int | None = 3) -> str:
        """Return the table in Markdown, for TensorBoard."""
        if self.text:
            return "\n".join(f"    {line}" for line in self.text.splitlines())
        header = [column.title for column in self._columns]
        rules = ["---:" if column.is_number else "---" for column in self._columns]
        rows = [row.cells for row in self._rows(depth, lambda layer: f"`{layer.name or '(model)'}`", group="`{}`")]
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

    @property
    def _columns(self) -> list[Column]:
        return _COLUMNS + _GROUP_COLUMNS * self.has_groups

    def _rows(self, depth: int | None, name: Callable[[LayerSummary], str], group: str = "{}") -> list[Row]:
        rows = []
        for layer in self._visible(depth):
            shapes = [_compact(layer.input_shape), _compact(layer.output_shape)]
            cells = [name(layer), layer.type, *shapes, _parameters(layer), _trainable(layer)]
            if self.has_groups:
                cells.append(", ".join(map(group.format, layer.groups)) or _no_group(layer))
                cells.append(show_lrs(layer.lrs, layer.base_lrs))
            rows.append(Row(cells, layer.depth, is_dimmed=_trainable(layer) == "frozen"))
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


def _last_name(layer: LayerSummary) -> str:
    return layer.name.rpartition(".")[2] or "(model)"


def _merge(outer: LayerSummary, inner: LayerSummary) -> LayerSummary:
    lrs = dict(zip(outer.groups + inner.groups, outer.lrs + inner.lrs, strict=True))
    base_lrs = dict(zip(outer.groups + inner.groups, outer.base_lrs + inner.base_lrs, strict=True))
    return replace(
        outer,
        parameters=outer.parameters + inner.parameters,
        trainable_parameters=outer.trainable_parameters + inner.trainable_parameters,
        groups=tuple(lrs),
        lrs=tuple(lrs.values()),
        base_lrs=tuple(base_lrs.values()),
    )


def _trainable(layer: LayerSummary) -> str:
    if not layer.parameters:
        return ""
    if layer.trainable_parameters == layer.parameters:
        return "yes"
    return "partly" if layer.trainable_parameters else "frozen"


def _parameters(layer: LayerSummary) -> str:
    if not layer.parameters:
        return f"= {layer.shared_with}" if layer.shared_with else ""
    return f"{layer.parameters:,}" + (f" + {layer.shared_with}" if layer.shared_with else "")


def _no_group(layer: LayerSummary) -> str:
    return "(none)" if layer.trainable_parameters else ""


def _compact(shapes: str) -> str:
    return re.sub(r"\[([\d, ]+)\]", lambda match: show_size(map(int, match[1].split(", "))), shapes)


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
