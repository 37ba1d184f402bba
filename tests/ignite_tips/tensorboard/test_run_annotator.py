"""RunAnnotator: what TensorBoard's own reader finds about a run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers import TensorboardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from ignite_tips import GradientNormClipper, RunAnnotator
from ignite_tips.core.wiring import annotate
from ignite_tips.tensorboard.run_reader import read_run
from tests.support import run_distributed


def _run(folder: Path, batches: list[torch.Tensor], *, max_epochs: int = 1, clip: bool = False) -> None:
    """Train with a freeze before the second epoch, an unfreeze before the third, and a plateau after each."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def update(engine: Engine, batch: torch.Tensor) -> None:
        optimizer.zero_grad()
        model(batch).sum().backward()
        optimizer.step()

    trainer = Engine(update)
    with TensorboardLogger(log_dir=folder) as tb_logger:
        RunAnnotator(model, optimizer).attach(trainer, tb_logger)
        if clip:
            GradientNormClipper(optimizer, max_norm=0.5, on_nonfinite="skip").attach(trainer)

        @trainer.on(Events.EPOCH_STARTED)
        def freeze(engine: Engine) -> None:
            if engine.state.epoch > 1:
                kind = "freeze" if engine.state.epoch == 2 else "unfreeze"
                model[0].requires_grad_(kind == "unfreeze")
                annotate(engine, kind, f"{kind} 0.*, head_1")

        trainer.run(batches, max_epochs=max_epochs)


def _read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def _scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in _read(folder).Scalars(tag)]


def test_annotations_are_texts_that_repeat_the_earlier_ones(tmp_path: Path) -> None:
    """The latest entry has all annotations, because TensorBoard shows only some of the entries."""
    _run(tmp_path, [torch.ones(4, 2)] * 3, max_epochs=3)
    entries = _read(tmp_path).Tensors("annotations/text_summary")
    assert [entry.step for entry in entries] == [3, 6]
    text = entries[-1].tensor_proto.string_val[0].decode()
    assert text.splitlines() == [
        "- **step 6**, epoch 3, unfreeze: unfreeze 0.\\*, head\\_1",
        "- **step 3**, epoch 2, freeze: freeze 0.\\*, head\\_1",
    ]
    assert [(annotation.kind, annotation.text, annotation.step) for annotation in read_run(tmp_path).annotations] == [
        ("freeze", "freeze 0.*, head_1", 3),
        ("unfreeze", "unfreeze 0.*, head_1", 6),
    ]


def test_the_trainable_fraction_is_drawn_as_steps(tmp_path: Path) -> None:
    """Each level has a point at both ends, the last one at the run's end."""
    _run(tmp_path, [torch.ones(4, 2)] * 3, max_epochs=3)
    frozen = pytest.approx(4 / 13)
    assert _scalars(tmp_path, "trainable_fraction") == [
        (1, 1.0),
        (3, 1.0),
        (4, frozen),
        (6, frozen),
        (7, 1.0),
        (9, 1.0),
    ]


def test_a_freeze_within_an_epoch_shows_immediately(tmp_path: Path) -> None:
    """The fraction is computed again after each annotation, not in every update."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Engine(lambda engine, batch: optimizer.step())

    @trainer.on(Events.ITERATION_COMPLETED(once=2))
    def freeze(engine: Engine) -> None:
        model[0].requires_grad_(False)
        annotate(engine, "freeze", "0")

    with TensorboardLogger(log_dir=tmp_path) as tb_logger:
        RunAnnotator(model, optimizer).attach(trainer, tb_logger)
        trainer.run(range(4))
    frozen = pytest.approx(4 / 13)
    assert _scalars(tmp_path, "trainable_fraction") == [(1, 1.0), (2, 1.0), (3, frozen), (4, frozen)]


def test_a_clippers_norms_and_skipped_updates_are_written(tmp_path: Path) -> None:
    """The norm before clipping and the coefficient per update; a skipped update is counted and annotated."""
    good, bad = torch.ones(4, 2), torch.full((4, 2), float("nan"))
    _run(tmp_path, [good, bad, bad, good, good], clip=True)
    reader = _read(tmp_path)
    norms, coefficients = _scalars(tmp_path, "grad_norm"), _scalars(tmp_path, "grad_clip_coef")
    assert [step for step, _ in norms] == [step for step, _ in coefficients] == [1, 2, 3]
    for (_, norm), (_, coefficient) in zip(norms, coefficients, strict=True):
        assert coefficient == pytest.approx(min(1.0, 0.5 / norm), rel=1e-5)
    assert _scalars(tmp_path, "skipped_steps") == [(1, 0.0), (2, 2.0), (3, 2.0)]
    annotations = reader.Tensors("annotations/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert annotations.count("skipped step") == 2


def test_the_last_entry_has_at_most_a_hundred_annotations(tmp_path: Path) -> None:
    """A run with very many annotations does not write ever longer texts."""
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Engine(lambda engine, batch: annotate(engine, "plateau", f"number {batch}"))
    with TensorboardLogger(log_dir=tmp_path) as tb_logger:
        RunAnnotator(model, optimizer).attach(trainer, tb_logger)
        trainer.run(range(120))
    text = _read(tmp_path).Tensors("annotations/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert text.splitlines()[0].endswith("number 119")
    assert text.splitlines()[-1].endswith("number 20")


def test_detached_it_stops_writing(tmp_path: Path) -> None:
    """Neither annotations nor scalars are written."""
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Engine(lambda engine, batch: optimizer.step())
    with TensorboardLogger(log_dir=tmp_path) as tb_logger:
        annotator = RunAnnotator(model, optimizer)
        annotator.attach(trainer, tb_logger)
        annotator.detach()
        trainer.run(range(3))
        annotate(trainer, "freeze", "all")
    tags = _read(tmp_path).Tags()
    assert tags["scalars"] == tags["tensors"] == []


def test_bad_arguments_are_refused() -> None:
    """Each error names the argument."""
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Engine(lambda engine, batch: None)
    unknown: Any = None
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got None"):
        RunAnnotator(unknown, optimizer)
    with pytest.raises(TypeError, match=r"tb_logger must be an ignite TensorboardLogger, got None"):
        RunAnnotator(model, optimizer).attach(trainer, unknown)


def _annotate_on_rank(rank: int, world_size: int, folder: Path) -> None:
    _run(folder / str(rank), [torch.ones(4, 2)] * 3, max_epochs=3)


@pytest.mark.distributed
def test_only_rank_zero_writes(tmp_path: Path) -> None:
    """The other ranks write nothing, even with a logger."""
    run_distributed(_annotate_on_rank, 2, tmp_path)
    assert _read(tmp_path / "0").Tags()["tensors"]
    tags = _read(tmp_path / "1").Tags()
    assert tags["scalars"] == tags["tensors"] == []
