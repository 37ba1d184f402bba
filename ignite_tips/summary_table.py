"""What is known of a model, layer by layer, and how it reads."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["LayerSummary", "ModelSummary"]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True)
class LayerSummary:
    """One module of a model.

    Attributes:
        name: its path in the model, empty for the model itself.
        type: its class.
        input_shape: the shapes that it was first called with, empty if it was never called.
        output_shape: the shapes that it then returned.
        parameters: the numbers in the parameters that are its own, not its children's, and no other's before it.
        trainable_parameters: those of them that require gradients.
        shared_with: the layer that has this one's parameters, or this very module, already; empty if none has.
        groups: the names of the optimizer's param groups that its parameters are in.
        lrs: their learning rates.
    """

    name: str
    type: str
    input_shape: str
    output_shape: str
    parameters: int
    trainable_parameters: int
    shared_with: str
    groups: tuple[str, ...]
    lrs: tuple[float, ...]

    @property
    def depth(self) -> int:
        """How many modules it lies within."""
        return self.name.count(".") + 1 if self.name else 0


@dataclass(frozen=True)
class ModelSummary:
    """A model's layers and totals; its text is a table.

    Attributes:
        layers: every module, the model itself first, in the order of definition.
        total_parameters: ``sum(p.numel())`` over the model's parameters, none counted twice.
        trainable_parameters: those of them that require gradients.
        parameter_bytes: the memory of the parameters.
        buffer_bytes: the memory of the buffers.
        input_bytes: the memory of the input.
        activation_bytes: the memory of what the innermost layers return: an estimate of what training keeps.
        mult_adds: multiplications and additions of one run, as torchinfo estimates them; None where it cannot.
    """

    layers: tuple[LayerSummary, ...]
    total_parameters: int
    trainable_parameters: int
    parameter_bytes: int
    buffer_bytes: int
    input_bytes: int
    activation_bytes: int
    mult_adds: int | None
    has_optimizer: bool = False

    def __str__(self) -> str:
        return self.table()

    def table(self, *, depth: int | None = None, width: int | None = None) -> str:
        """Return the table as text.

        Args:
            depth: leave out layers within more than so many modules; None shows all.
            width: the longest line, in characters; None takes the terminal's.
        """
        header, rows = self._cells(depth)
        widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
        lines = ["  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)) for row in [header, *rows]]
        rule = "-" * len(lines[0])
        width = width or shutil.get_terminal_size().columns
        return "\n".join(line.rstrip() for line in [lines[0], rule, *lines[1:], rule, *self.totals()])

    def totals(self) -> list[str]:
        """Return the lines below the table."""
        frozen = self.total_parameters - self.trainable_parameters
        gradient_share = self.trainable_parameters / max(self.total_parameters, 1)
        training = self.parameter_bytes * (1 + gradient_share) + self.activation_bytes + self.input_bytes
        return [
            f"Parameters: {self.total_parameters:,} ({self.trainable_parameters:,} trainable, {frozen:,} frozen)",
            f"Memory: {_memory(self.parameter_bytes)} parameters, {_memory(self.activation_bytes)} activations, "
            f"{_memory(self.input_bytes)} input; about {_memory(training)} with gradients",
        ]

    def _cells(self, depth: int | None) -> tuple[list[str], list[list[str]]]:
        header = ["Layer", "Type", "Input", "Output", "Parameters", "Trainable"]
        header += ["Group", "LR"] if self.has_optimizer else []
        rows = []
        for layer in self.layers:
            if depth is None or layer.depth <= depth:
                row = [
                    "  " * layer.depth + (layer.name.rpartition(".")[2] or "(model)"),
                    layer.type,
                    layer.input_shape,
                    layer.output_shape,
                    f"{layer.parameters:,}" if layer.parameters else "",
                    _trainable(layer),
                ]
                row += [", ".join(layer.groups), ", ".join(f"{lr:g}" for lr in layer.lrs)] if self.has_optimizer else []
                rows.append(row)
        return header, rows


def _trainable(layer: LayerSummary) -> str:
    if not layer.parameters:
        return f"shared: {layer.shared_with}" if layer.shared_with else ""
    if layer.trainable_parameters == layer.parameters:
        return "yes"
    return "partly" if layer.trainable_parameters else "frozen"


def _memory(size: float, units: Sequence[str] = _UNITS) -> str:
    for unit in units:
        if size < 1024 or unit == units[-1]:
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
