"""ModelSummarizer: what it shows, where, and when."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers import TensorboardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from ignite_tips import ModelSummarizer
from tests.ignite_tips.architectures import DictNet, Keywords
from tests.settings import seeded
from tests.support import run_distributed

BATCHES = [(torch.ones(4, 2), torch.ones(4))] * 3


def _model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))


def _trainer(model: nn.Module) -> Engine:
    def update(engine: Engine, batch: Any) -> None:
        model(batch[0]).sum().backward()

    return Engine(update)


def test_it_shows_the_model_once_at_the_first_batch() -> None:
    """With the batch's shapes, and after other handlers changed the model at the start of the run."""
    model = _model()
    shown: list[str] = []
    trainer = _trainer(model)
    summarizer = ModelSummarizer(model, output=shown.append).attach(trainer)
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda: model[0].requires_grad_(False))
    assert summarizer.summary is None
    trainer.run(BATCHES, max_epochs=2)
    assert len(shown) == 1
    assert "4\u00d72" in shown[0]
    assert "frozen" in shown[0]
    assert summarizer.summary is not None
    assert summarizer.summary.total_parameters == 19


def test_training_is_unaffected() -> None:
    """Parameters, buffers and random numbers after the run are the same, bit for bit."""
    results = []
    for summarize in (False, True):
        torch.manual_seed(seeded())
        model = nn.Sequential(_model(), nn.Dropout(0.5))
        trainer = _trainer(model)
        if summarize:
            ModelSummarizer(model, output=lambda text: None).attach(trainer)
        trainer.run(BATCHES)
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        results.append([*model.state_dict().values(), *gradients, torch.get_rng_state()])
    assert all(torch.equal(left, right) for left, right in zip(*results, strict=True))


def test_it_goes_to_tensorboard_as_text(tmp_path: Path) -> None:
    """The step is the number of completed iterations: 0 in a new run, more in a resumed one."""
    model = _model()
    for iteration in (0, 2):
        trainer = _trainer(model)
        if iteration:
            trainer.load_state_dict({"iteration": iteration, "epoch_length": 3, "max_epochs": 1})
        with TensorboardLogger(log_dir=tmp_path / str(iteration)) as tb_logger:
            ModelSummarizer(model, output=lambda text: None).attach(trainer, tb_logger)
            trainer.run(BATCHES)
        (entry,) = EventAccumulator(str(tmp_path / str(iteration))).Reload().Tensors("model/text_summary")
        assert entry.step == iteration
        assert entry.tensor_proto.string_val[0].decode().startswith("| Layer | Type | Input |")


@pytest.mark.parametrize(
    ("model", "batch", "options", "expected"),
    [
        (DictNet(), {"image": torch.ones(2, 12), "text": torch.ones(2, 3, dtype=torch.long)}, {}, "{image: [2, 12]"),
        (_model(), {"x": torch.ones(5, 2)}, {"input_of_batch": lambda batch: batch["x"]}, "[5, 2]"),
        (_model(), None, {"input_size": (7, 2)}, "[7, 2]"),
        (Keywords(), None, {"example": torch.ones(3, 6), "keywords": {"depth": torch.ones(3)}}, "[3, 6], depth=[3]"),
    ],
)
def test_the_input_comes_from_the_batch_or_from_an_argument(
    model: nn.Module, batch: Any, options: dict[str, Any], expected: str
) -> None:
    """A dict is passed unchanged, a tuple's first member is taken, and a function may choose."""
    trainer = Engine(lambda engine, batch: None)
    summarizer = ModelSummarizer(model, output=lambda text: None, **options).attach(trainer)
    trainer.run([batch])
    assert summarizer.summary is not None
    assert summarizer.summary.layers[0].input_shape.startswith(expected)


def test_torchsummarys_table_is_shown_on_request() -> None:
    """Its own text goes to the same output."""
    shown: list[str] = []
    trainer = _trainer(_model())
    ModelSummarizer(_model(), backend="torchsummary", output=shown.append).attach(trainer)
    trainer.run(BATCHES)
    assert "Layer (type)               Output Shape         Param #" in shown[0]


def test_it_prints_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    """To standard output, down to the given depth."""
    trainer = _trainer(_model())
    ModelSummarizer(nn.Sequential(_model()), depth=1).attach(trainer)
    trainer.run(BATCHES)
    assert len(capsys.readouterr().out.splitlines()) == 7


def test_detached_it_shows_nothing() -> None:
    """Attached again, it shows the model once more."""
    shown: list[str] = []
    trainer = _trainer(_model())
    summarizer = ModelSummarizer(_model(), output=shown.append).attach(trainer)
    summarizer.detach()
    trainer.run(BATCHES)
    assert shown == []
    summarizer.attach(trainer)
    summarizer.attach(trainer)
    trainer.run(BATCHES)
    assert len(shown) == 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"example": torch.ones(4, 5)},
            r"ValueError: the input must fit the model, but layer '0' \(Linear\) got \[4, 5\]",
        ),
        ({"input_of_batch": lambda batch: batch["x"]}, "TypeError: tuple indices must be integers"),
        (
            {"backend": "torchsummary", "keywords": {"input": torch.ones(4, 2)}},
            "RuntimeError: torchsummary takes only tensors",
        ),
    ],
)
def test_a_summary_that_fails_is_told_once_and_the_run_goes_on(options: dict[str, Any], reason: str) -> None:
    """The run trains all its batches; one warning has the reason; a new attach tries again."""
    shown: list[str] = []
    trainer = Engine(lambda engine, batch: None)
    summarizer = ModelSummarizer(_model(), output=shown.append, **options).attach(trainer)
    for _ in range(2):
        with pytest.warns(UserWarning, match=f"ModelSummarizer shows no summary: {reason}") as caught:
            trainer.run(BATCHES, max_epochs=2)
        assert (len(caught), trainer.state.iteration) == (1, 6)
        assert (shown, summarizer.summary) == ([], None)
        summarizer.attach(trainer)


def test_bad_arguments_are_refused() -> None:
    """In the constructor or in attach()."""
    unknown: Any = 3
    trainer = _trainer(_model())
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got 3 \(int\)"):
        ModelSummarizer(unknown)
    with pytest.raises(TypeError, match="tb_logger must be an ignite TensorboardLogger or None"):
        ModelSummarizer(_model()).attach(trainer, unknown)


def _train_on_rank(rank: int, world_size: int) -> tuple[int, Any]:
    model = nn.parallel.DistributedDataParallel(_model())
    shown: list[str] = []
    trainer = _trainer(model)
    summarizer = ModelSummarizer(model, output=shown.append).attach(trainer)
    trainer.run(BATCHES)
    assert summarizer.summary is not None
    return len(shown), summarizer.summary.layers[1].name


def _fail_on_rank(rank: int, world_size: int) -> str:
    model = _model()
    fully_shard(model, mesh=init_device_mesh("cpu", (world_size,)))
    trainer = Engine(lambda engine, batch: None)
    trainer.logger.disabled = True
    ModelSummarizer(model, input_size=(4, 5)).attach(trainer)
    with pytest.raises(ValueError, match="the input must fit the model, but layer '0' ") as caught:
        trainer.run(BATCHES)
    return str(caught.value)


@pytest.mark.distributed
def test_a_summary_that_fails_ends_the_run_of_a_sharded_model() -> None:
    """The error is the summary's, and not one of the next forward pass, which would not find its parameters."""
    assert all("got [4, 5]" in text for text in run_distributed(_fail_on_rank, 2))


@pytest.mark.distributed
def test_only_rank_zero_prints() -> None:
    """Under DDP every rank has the summary of the inner module, and one rank prints it."""
    assert run_distributed(_train_on_rank, 2) == [(1, "0"), (0, "0")]
