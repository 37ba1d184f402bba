"""summarize_model on many architectures: correct figures, and a model that does not change."""

import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ignite_tips import summarize_model
from tests.ignite_tips.architectures import MODELS, Odd, Residual, Tied
from tests.support import run_script


def _snapshot(model: nn.Module) -> list[Any]:
    """Everything that a run could change, in a comparable form."""
    state: list[Any] = [random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()]
    for name, module in model.named_modules():
        hooks = {key: list(value.items()) for key, value in module.__dict__.items() if key.endswith("hooks")}
        plain = {key: value for key, value in module.__dict__.items() if isinstance(value, int | float | str)}
        state.append((name, module.training, hooks, plain))
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        grad = None if tensor.grad is None else (id(tensor.grad), tensor.grad.tolist())
        contents = type(tensor).__name__ if is_lazy(tensor) else tensor.tolist()
        state.append((name, id(tensor), tensor.requires_grad, grad, contents))
    return state


def _parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_totals_count_each_parameter_once(name: str) -> None:
    """Counted by hand, and again as the sum over the layers."""
    build, arguments = MODELS[name]
    model = build()
    summary = summarize_model(model, **arguments)
    if name == "lazy":
        model(torch.ones(arguments["input_size"]))
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert summary.total_parameters == _parameter_count(model)
    assert summary.trainable_parameters == trainable
    assert sum(layer.parameters for layer in summary.layers) == _parameter_count(model)
    assert sum(layer.trainable_parameters for layer in summary.layers) == trainable
    paths = [path for path, _ in model.named_modules(remove_duplicate=False)]
    assert [layer.name for layer in summary.layers] == [path for path in paths if not path.startswith("again.")]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_the_model_and_the_random_numbers_are_as_before(name: str, training: bool) -> None:
    """Flags, buffers, gradients, hooks, attributes and generators, bit for bit."""
    build, arguments = MODELS[name]
    model = build().train(training)
    for module in list(model.modules())[::2]:
        module.training = not module.training
        module.register_forward_hook(lambda *_: None)
    for parameter in model.parameters():
        if not is_lazy(parameter) and parameter.requires_grad:
            parameter.grad = torch.randn_like(parameter)
    before = _snapshot(model)
    summarize_model(model, **arguments)
    assert _snapshot(model) == before


def test_the_architectures_are_many() -> None:
    """There are at least twelve, including each of the difficult kinds."""
    assert len(MODELS) >= 12
    assert {"residual with shared parts", "lstm with tuples", "tied embeddings", "lazy", "empty"} <= set(MODELS)


def test_other_libraries_are_imported_only_for_their_tables(tmp_path: Path) -> None:
    """Neither of them is imported with the package, and a table of torchinfo does not import torchsummary."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, torch, ignite_tips\n"
        "libraries = ('torchinfo', 'torchsummary')\n"
        "print([name in sys.modules for name in libraries])\n"
        "ignite_tips.summarize_model(torch.nn.Linear(2, 2), input_size=(1, 2), backend='torchinfo')\n"
        "print([name in sys.modules for name in libraries])\n"
    )
    (ended,) = run_script(script, folder=tmp_path)
    assert ended.out == "[False, False]\n[True, False]\n", ended.err


def _torchsummary_total(model: nn.Module, arguments: dict[str, Any]) -> str:
    """Return the total that torchsummary prints, or the error it fails with."""
    try:
        text = summarize_model(model, backend="torchsummary", **arguments).text
    except RuntimeError as error:
        found = re.search(r"torchsummary (fails on this model \((\w+)|takes only tensors of floats)", str(error))
        return found[2] or "no table" if found else str(error)
    found = re.search(r"Total params: ([\d,]+)", text)
    return found[1] if found else text


# The correct total, and torchsummary's result for the same model.
TORCHSUMMARY = {
    "convolutional": ("1,498", "1,498"),
    "residual with shared parts": ("922", "1,522"),
    "gru": ("2,880", "AttributeError"),
    "lstm with tuples": ("1,664", "no table"),
    "transformer encoder": ("4,448", "AttributeError"),
    "tied embeddings": ("2,432", "no table"),
    "dict input": ("132", "no table"),
    "keyword input": ("21", "TypeError"),
    "lazy": ("250", "250"),
    "nested containers": ("35", "30"),
    "bare parameters": ("28", "14"),
    "frozen part": ("106", "106"),
    "quantized part": ("72", "72"),
    "two inputs": ("65", "AttributeError"),
    "empty": ("0", "AttributeError"),
    "odd output": ("10", "10"),
    "double precision": ("8", "RuntimeError"),
}


@pytest.mark.parametrize("name", MODELS)
def test_torchsummarys_own_table_is_returned_unchanged_or_its_failure_reported(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its text is captured, not printed; our figures are still correct; the model does not change."""
    build, arguments = MODELS[name]
    model = build()
    before = _snapshot(model)
    total, torchsummary_total = TORCHSUMMARY[name]
    assert f"{summarize_model(model, **arguments).total_parameters:,}" == total
    assert _torchsummary_total(model, arguments) == torchsummary_total
    assert capsys.readouterr().out == ""
    assert _snapshot(model) == before


def test_torchinfos_own_table_is_returned_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    """Its text is captured, the data are ours, and where torchinfo fails the error says so."""
    model = nn.Sequential(nn.Linear(8, 4), nn.Dropout())
    before = _snapshot(model)
    summary = summarize_model(model, input_size=(16, 8), backend="torchinfo")
    assert "Total mult-adds" in str(summary)
    assert "Linear: 2-1" in str(summary) or "Linear: 3-1" in str(summary)
    assert summary.layers == summarize_model(model, input_size=(16, 8)).layers
    assert _snapshot(model) == before
    assert capsys.readouterr().out == ""
    with pytest.raises(RuntimeError, match=r"torchinfo fails on this model \(.*\); leave backend out to see it"):
        summarize_model(Odd(), input_size=(2, 4), backend="torchinfo")


def test_shapes_are_those_of_every_kind_of_value() -> None:
    """Tuples, dicts and keywords are shown with their structure; None is left out of keywords."""
    shapes = {}
    for name in ("lstm with tuples", "dict input", "keyword input", "odd output", "two inputs"):
        build, arguments = MODELS[name]
        layer = summarize_model(build(), **arguments).layers[0]
        shapes[name] = (layer.input_shape, layer.output_shape)
    assert shapes == {
        "lstm with tuples": (
            "[2, 5, 8], ([1, 2, 16], [1, 2, 16])",
            "([2, 5, 16], ([1, 2, 16], [1, 2, 16]))",
        ),
        "dict input": ("{image: [2, 12], text: [2, 3]}", "{logits: [2, 4], parts: ([2, 4], ([]))}"),
        "keyword input": ("[2, 6], depth=[3]", "[2, 3]"),
        "odd output": ("[2, 4]", "Answer"),
        "two inputs": ("[2, 3], [2, 4]", "[2, 5]"),
    }


def test_shared_parameters_are_counted_once_and_named() -> None:
    """A module used under two names, and a parameter in two modules."""
    layers = {layer.name: layer for layer in summarize_model(Residual(), input_size=(1, 3, 8, 8)).layers}
    assert (layers["again"].parameters, layers["again"].shared_with) == (0, "block")
    assert "again.0" not in layers
    tied = {layer.name: layer for layer in summarize_model(Tied(), torch.zeros(1, 3, dtype=torch.long)).layers}
    assert (tied["out"].parameters, tied["out"].shared_with) == (0, "embed")
    assert tied["embed"].parameters == 800


def test_groups_and_lrs_of_the_optimizer_are_shown() -> None:
    """Each layer shows the groups of its parameters; a layer in no group is marked."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 1))
    groups = [{"params": [model[0].weight], "name": "decay", "lr": 0.1}, {"params": [model[0].bias], "name": "none"}]
    optimizer = torch.optim.SGD([*groups, {"params": model[1].parameters(), "name": "middle"}], lr=0.01)
    summary = summarize_model(model, input_size=(1, 2), optimizer=optimizer)
    assert [(layer.groups, layer.lrs) for layer in summary.layers[1:]] == [
        (("decay", "none"), (0.1, 0.01)),
        (("middle",), (0.01,)),
        ((), ()),
    ]
    assert "(none)" in str(summary).splitlines()[-4]


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_wrappers_are_ignored(wrap: Any) -> None:
    """Names and figures are those of the model inside."""
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    assert summarize_model(wrap(model), input_size=(1, 2)) == summarize_model(model, input_size=(1, 2))


def test_no_model_is_kept_alive() -> None:
    """Neither here nor in torchinfo's cache."""
    import gc
    import weakref

    model = nn.Linear(2, 2)
    summarize_model(model, input_size=(1, 2))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (
            nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(10, 2))),
            {"input_size": (2, 3, 4)},
            "the input must fit the model, but layer '1.0' (Linear) got [2, 12]: ",
        ),
        (nn.Linear(3, 2), {"input_size": (2, 4)}, "the input must fit the model, but Linear got [2, 4]: "),
        (
            nn.Linear(3, 2),
            {"example": (torch.ones(3), torch.ones(3))},
            "the input must fit the model, but Linear got [3], [3]: Linear.forward() takes 2 positional arguments",
        ),
        (nn.Linear(3, 2), {}, "input_size must be given, or an example of the input; got neither"),
        (
            nn.Linear(3, 2),
            {"example": torch.ones(3), "input_size": (3,)},
            "input_size must be None if an example is given, got (3,) (tuple)",
        ),
        *(
            (
                nn.Linear(3, 2),
                {"input_size": size},
                f"input_size must be positive integers, or several such sizes, got {size} ({type(size).__name__})",
            )
            for size in [(), (0, 3), (2, -1), (2.0, 3), [(2, 3), ()], (2, (3,)), (True, 3)]
        ),
        (nn.Linear(3, 2), {"backend": "x"}, "backend must be 'torchinfo' or 'torchsummary', got 'x'"),
    ],
)
def test_bad_input_is_refused(model: nn.Module, arguments: dict[str, Any], message: str) -> None:
    """The error names the layer and the shapes, or the argument; the model does not change."""
    before = _snapshot(model)
    with pytest.raises(ValueError, match=re.escape(message)):
        summarize_model(model, **arguments)
    assert _snapshot(model) == before


def test_the_model_must_be_a_module() -> None:
    """The error shows the value."""
    unknown: Any = "resnet"
    with pytest.raises(TypeError, match=re.escape("model must be a torch.nn.Module, got 'resnet' (str)")):
        summarize_model(unknown, input_size=(1,))
