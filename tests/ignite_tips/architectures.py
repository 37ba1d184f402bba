"""Models that a summary must handle correctly, each with its input."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class Residual(nn.Module):
    """A ResNet-like network that uses one activation everywhere and one block twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), self.relu)
        self.again = self.block
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.norm(self.stem(x)))
        x = x + self.block(x)
        x = x + self.again(x)
        return self.head(x.mean((2, 3)))


class Tied(nn.Module):
    """A language model whose output layer shares the embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.gru = nn.GRU(16, 16, batch_first=True)
        self.out = nn.Linear(16, 50, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.out(self.gru(self.embed(tokens))[0])


class DictNet(nn.Module):
    """Takes a dict and returns one."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(12, 4), nn.EmbeddingBag(20, 4)

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
        mixed = self.image(batch["image"]) + self.text(batch["text"])
        return {"logits": mixed, "parts": (mixed, [mixed.sum()])}


class Keywords(nn.Module):
    """Takes a keyword that torchinfo also has, and one that is None."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor, *, depth: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.layer(x) * depth


class Bare(nn.Module):
    """Has parameters that belong to no layer, one of them frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(7))
        self.shift = nn.Parameter(torch.zeros(7), requires_grad=False)
        self.norm = nn.LayerNorm(7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x * self.scale + self.shift)


class Odd(nn.Module):
    """Returns an unknown type, draws random numbers and counts its calls."""

    class Answer:
        """A container of an unknown type."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 2)
        self.calls = 0
        self.register_buffer("seen", torch.zeros(2))

    def forward(self, x: torch.Tensor) -> Any:
        self.calls += 1
        y = self.inner(x + torch.randn_like(x))
        self.seen += y.mean(0)
        answer = self.Answer()
        answer.y = functional.relu(y)  # type: ignore[attr-defined]
        return answer


def _conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4 * 36, 10)
    )


def _frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    model[0].requires_grad_(False)
    model[1].eval()
    return model


def _nested() -> nn.Module:
    return nn.ModuleDict(
        {
            "a": nn.ModuleList([nn.Sequential(nn.Sequential(nn.Linear(5, 5)), nn.Tanh()), nn.Identity()]),
            "b": nn.ParameterList([nn.Parameter(torch.ones(5))]),  # type: ignore[dict-item]  # a Module nevertheless
        }
    )


class Nested(nn.Module):
    """Lists and dicts of modules within each other."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = _nested()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts["a"]:
            x = part(x)
        return x + self.parts["b"][0]


def _quantized() -> nn.Module:
    class Rounded(nn.Module):
        """Eight-bit weights in a buffer, after a trainable layer."""

        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(8, 8)
            self.register_buffer("packed", torch.randint(-127, 127, (8, 8), dtype=torch.int8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.first(x) @ (self.packed.float() / 127)

    return Rounded()


def _encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    return nn.TransformerEncoder(layer, 2)


MODELS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "convolutional": (_conv, {"input_size": (4, 1, 8, 8)}),
    "residual with shared parts": (Residual, {"input_size": (2, 3, 8, 8)}),
    "gru": (lambda: nn.GRU(8, 16, num_layers=2, batch_first=True), {"input_size": (2, 5, 8)}),
    "lstm with tuples": (
        lambda: nn.LSTM(8, 16, batch_first=True),
        {"example": (torch.zeros(2, 5, 8), (torch.zeros(1, 2, 16), torch.zeros(1, 2, 16)))},
    ),
    "transformer encoder": (_encoder, {"input_size": (2, 5, 16)}),
    "tied embeddings": (Tied, {"example": torch.randint(50, (2, 7))}),
    "dict input": (DictNet, {"example": {"image": torch.ones(2, 12), "text": torch.ones(2, 3, dtype=torch.long)}}),
    "keyword input": (Keywords, {"example": torch.ones(2, 6), "keywords": {"depth": torch.ones(3), "mask": None}}),
    "lazy": (
        lambda: nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(2)),
        {"input_size": (2, 3, 6, 6)},
    ),
    "nested containers": (Nested, {"input_size": (2, 5)}),
    "bare parameters": (Bare, {"input_size": (2, 7)}),
    "frozen part": (_frozen, {"input_size": (4, 8)}),
    "quantized part": (_quantized, {"input_size": (4, 8)}),
    "two inputs": (lambda: nn.Bilinear(3, 4, 5), {"input_size": [(2, 3), (2, 4)]}),
    "empty": (nn.Sequential, {"input_size": (2, 3)}),
    "odd output": (Odd, {"input_size": (2, 4)}),
    "double precision": (lambda: nn.Linear(3, 2).double(), {"input_size": (2, 3)}),
}
