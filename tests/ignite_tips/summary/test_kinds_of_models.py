"""Models and tensors of rare kinds: a table, with blanks where nothing can be seen, or one true sentence."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, jacrev, vmap
from torch.nn.utils.rnn import pack_sequence
from torch.utils.checkpoint import checkpoint

from ignite_tips import ModelSummary, summarize_model

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit.*:DeprecationWarning",
    "ignore:.*torch.ao.quantization.*:DeprecationWarning",
    "ignore:torch.quantize_per_tensor.*:UserWarning",
    "ignore:Sparse.*beta state:UserWarning",
    "ignore:The PyTorch API of nested tensors.*:UserWarning",
)

X = torch.ones(3, 4)
SPARSE = torch.eye(3).to_sparse()


def nested(layout: torch.layout = torch.strided) -> torch.Tensor:
    return torch.nested.nested_tensor([X, X[:2]], layout=layout)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))


class With(nn.Module):
    """Calls ``function(self, *args)``; has two linear layers, and what is given as a buffer."""

    def __init__(self, function: Callable[..., Any], buffer: torch.Tensor | None = None) -> None:
        super().__init__()
        self.function, self.linear, self.other = function, nn.Linear(4, 2), nn.Linear(4, 2)
        self.register_buffer("buffer", buffer)

    def forward(self, *args: Any) -> Any:
        return self.function(self, *args)


class Opaque(dict[str, Any]):
    """A mapping that raises when it is looked at."""

    def items(self) -> Any:
        raise RuntimeError("not to be looked at")


@dataclass
class Endless:
    inner: Any = None

    def __post_init__(self) -> None:
        self.inner = self


def force(model: Any, x: torch.Tensor) -> torch.Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(model.linear(x).sum(), x)[0]


def learn(model: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.enable_grad():
        model.linear(x).sum().backward()
    return x


def fall_back(model: Any, x: torch.Tensor) -> torch.Tensor:
    with contextlib.suppress(RuntimeError):
        model.other(x[:, :3])
    return model.linear(x)


def in_fake_mode(**arguments: Any) -> ModelSummary:
    with FakeTensorMode():
        return summarize_model(net(), **arguments or {"example": torch.ones(3, 4)})


def of_fake_model() -> ModelSummary:
    with FakeTensorMode():
        model = net()
    return summarize_model(model, input_size=(3, 4))


def exported() -> nn.Module:
    return torch.export.export(net().eval(), (X,)).module()


# The summary; its parameters; the shapes of the whole model's input and output; its mult-adds.
SUMMARIES: dict[str, tuple[Callable[[], ModelSummary], int, str, str, int | None]] = {
    "sparse input": (
        lambda: summarize_model(With(lambda m, x, a: a @ m.linear(x)), (X, SPARSE)),
        20,
        "[3, 4], [3, 3]",
        "[3, 2]",
        24 + 18,
    ),
    "sparse rows": (
        lambda: summarize_model(With(lambda m, x, a: a @ m.linear(x)), (X, SPARSE.to_sparse_csr())),
        20,
        "[3, 4], [3, 3]",
        "[3, 2]",
        24 + 18,
    ),
    "sparse output": (
        lambda: summarize_model(With(lambda m, x: m.linear(x).to_sparse()), X),
        20,
        "[3, 4]",
        "[3, 2]",
        24,
    ),
    "sparse buffer": (
        lambda: summarize_model(With(lambda m, x: m.buffer @ m.linear(x), SPARSE), X),
        20,
        "[3, 4]",
        "[3, 2]",
        24 + 18,
    ),
    "meta": (lambda: summarize_model(net().to("meta"), X), 14, "[3, 4]", "[3, 2]", 24),
    "fake": (in_fake_mode, 14, "[3, 4]", "[3, 2]", 24),
    "fake, of a size": (lambda: in_fake_mode(input_size=(3, 4)), 14, "[3, 4]", "[3, 2]", 24),
    "fake, outside its mode": (of_fake_model, 14, "[3, 4]", "[3, 2]", 24),
    "nested": (lambda: summarize_model(net()[:1], nested()), 10, "[2, *, 4]", "[2, *, 2]", None),
    "jagged": (lambda: summarize_model(net()[:1], nested(torch.jagged)), 10, "[2, *, 4]", "[2, *, 2]", None),
    "nested buffer": (
        lambda: summarize_model(With(lambda m, x: m.linear(m.buffer), nested()), X),
        20,
        "[3, 4]",
        "[2, *, 2]",
        None,
    ),
    "expanded buffer of NaN": (
        lambda: summarize_model(With(lambda m, x: m.linear(x), torch.tensor(torch.nan).expand(3)), X),
        20,
        "[3, 4]",
        "[3, 2]",
        24,
    ),
    "packed": (
        lambda: summarize_model(nn.GRU(4, 2), pack_sequence([X, X[:2]])),
        48,
        "[5, 4]",
        "([5, 2], [1, 2, 2])",
        5 * 3 * 2 * (4 + 2),
    ),
    "complex": (
        lambda: summarize_model(nn.Linear(4, 2, dtype=torch.complex64), input_size=(3, 4)),
        10,
        "[3, 4]",
        "[3, 2]",
        24,
    ),
    "quantized": (
        lambda: summarize_model(torch.ao.quantization.quantize_dynamic(net()), X),
        4,
        "[3, 4]",
        "[3, 2]",
        None,
    ),
    "differentiates": (lambda: summarize_model(With(force), X), 20, "[3, 4]", "[3, 4]", None),
    "learns": (lambda: summarize_model(With(learn), X), 20, "[3, 4]", "[3, 4]", 24 + 24),
    "jacobians": (
        lambda: summarize_model(With(lambda m, x: vmap(jacrev(m.linear))(x)), X),
        20,
        "[3, 4]",
        "[3, 2, 4]",
        None,
    ),
    "functional": (
        lambda: summarize_model(With(lambda m, x: functional_call(m.linear, dict(m.other.named_parameters()), x)), X),
        20,
        "[3, 4]",
        "[3, 2]",
        24,
    ),
    "checkpointed": (
        lambda: summarize_model(With(lambda m, x: checkpoint(m.linear, x, use_reentrant=False)), X),
        20,
        "[3, 4]",
        "[3, 2]",
        24,
    ),
    "scripted": (lambda: summarize_model(torch.jit.script(net()), X), 14, "[3, 4]", "[3, 2]", 24),
    "scripted part": (
        lambda: summarize_model(nn.Sequential(torch.jit.script(net()), nn.ReLU()), X),
        14,
        "[3, 4]",
        "[3, 2]",
        24,
    ),
    "traced": (lambda: summarize_model(torch.jit.trace(net().eval(), X), X), 14, "[3, 4]", "[3, 2]", 24),
    "exported": (lambda: summarize_model(exported(), X), 14, "[3, 4]", "[3, 2]", 24),
    "exported part": (lambda: summarize_model(nn.Sequential(exported(), nn.ReLU()), X), 14, "[3, 4]", "[3, 2]", 24),
    "symbolically traced": (lambda: summarize_model(torch.fx.symbolic_trace(net()), X), 14, "[3, 4]", "[3, 2]", 24),
    "opaque input": (lambda: summarize_model(With(lambda m, x, o: m.linear(x)), (X, Opaque())), 20, "", "[3, 2]", 24),
    "opaque output": (lambda: summarize_model(With(lambda m, x: Opaque(x=m.linear(x))), X), 20, "[3, 4]", "", 24),
    "endless output": (lambda: summarize_model(With(lambda m, x: Endless(m.linear(x))), X), 20, "[3, 4]", "", 24),
    "part that raises": (lambda: summarize_model(With(fall_back), X), 20, "[3, 4]", "[3, 2]", 24),
    "takes numbers": (
        lambda: summarize_model(With(lambda m, rows, columns: m.linear(torch.ones(rows, columns))), (3, 4)),
        20,
        "3, 4",
        "[3, 2]",
        24,
    ),
}


@pytest.mark.parametrize("name", SUMMARIES)
def test_a_model_that_runs_has_a_table(name: str) -> None:
    """Whatever its tensors and modules are, with the figures that are known."""
    summarize, parameters, inputs, outputs, mult_adds = SUMMARIES[name]
    summary = summarize()
    assert summary.total_parameters == parameters
    assert (summary.layers[0].input_shape, summary.layers[0].output_shape) == (inputs, outputs)
    assert summary.mult_adds == mult_adds
    assert len(summary.table().splitlines()) >= 6


@pytest.mark.parametrize("make", [lambda: torch.jit.script(net()), exported], ids=["scripted", "exported"])
def test_what_cannot_be_seen_is_blank(make: Callable[[], nn.Module]) -> None:
    """The layers inside have no shapes; the activations are at least the model's output."""
    summary = summarize_model(make(), X)
    inside = [layer for layer in summary.layers[1:] if not layer.name.startswith("_")]
    assert [(layer.input_shape, layer.output_shape, layer.parameters) for layer in inside] == [
        ("", "", 10),
        ("", "", 4),
    ]
    assert summary.activation_bytes == 3 * 2 * 4


def test_memory_of_sparse_and_nested_tensors_is_that_of_their_parts() -> None:
    """Values of 4 bytes, and of a sparse tensor also its indices, of 8."""
    model = With(lambda m, x: m.linear(x), SPARSE)
    assert summarize_model(model, X).buffer_bytes == 3 * (4 + 2 * 8)
    model.buffer = SPARSE.to_sparse_csr()
    assert summarize_model(model, X).buffer_bytes == 3 * (4 + 8) + 4 * 8
    assert summarize_model(net()[:1], nested()).input_bytes == (3 + 2) * 4 * 4


def test_a_call_after_a_caught_error_is_the_right_layers() -> None:
    """The layer that raised has no call; the one after it has its own input."""
    layers = {layer.name: layer for layer in summarize_model(With(fall_back), X).layers}
    assert (layers["other"].input_shape, layers["linear"].input_shape) == ("", "[3, 4]")


def test_gradients_and_buffers_of_rare_models_are_as_before() -> None:
    """A model that calls backward() in its forward pass has the gradients that it had; so has a sparse buffer."""
    model = With(learn)
    summarize_model(model, X)
    assert model.linear.weight.grad is None
    sparse = With(lambda m, x: m.buffer.mul_(2) @ m.linear(x), SPARSE.clone())
    summarize_model(sparse, X)
    assert torch.equal(sparse.buffer.to_dense(), torch.eye(3))
    many = With(lambda m, x: m.buffer.mul_(2), nested())
    summarize_model(many, X)
    assert torch.equal(many.buffer.values(), nested().values())


@pytest.mark.parametrize(
    ("make", "example", "message"),
    [
        (net, X[:, :3], r"the input must fit the model, but layer '0' \(Linear\) got \[3, 3\]: mat1 and mat2 shapes"),
        (lambda: With(force), X[:, :3], r"but layer 'linear' \(Linear\) got \[3, 3\]: mat1 and mat2 shapes"),
        (lambda: torch.jit.script(net()), X[:, :3], r"the input must fit the model, but .* got \[3, 3\]: "),
        (net, (1, 8, 8), r"got 1, 8, 8: .*; did you mean input_size=\(1, 8, 8\)\?"),
        (net, [3, 4], r"; did you mean input_size=\(3, 4\)\?"),
        (net, X.shape, r"; did you mean input_size=\(3, 4\)\?"),
        (net, [(3, 4), (3, 4)], r"; did you mean input_size=\(\(3, 4\), \(3, 4\)\)\?"),
    ],
)
def test_an_input_that_does_not_fit_is_one_sentence(make: Callable[[], nn.Module], example: Any, message: str) -> None:
    """It names the layer and the shapes, and where only a size was given, the argument for sizes."""
    with pytest.raises(ValueError, match=message):
        summarize_model(make(), example)


@pytest.mark.parametrize("size", [(3, 4), ((3, 4),), X.shape, [torch.tensor(3), 4]], ids=str)
def test_the_remedy_works(size: Any) -> None:
    """Sizes are tuples or lists of integers of any kind."""
    assert summarize_model(net(), input_size=size).layers[0].input_shape == "[3, 4]"
