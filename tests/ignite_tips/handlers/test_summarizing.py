"""ModelSummarizer: what it shows, and when."""

from typing import Any

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from ignite_tips import ModelSummarizer
from tests.support import run_distributed


def _model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))


def _trainer(model: nn.Module) -> Engine:
    def update(engine: Engine, batch: Any) -> None:
        model(batch[0]).sum().backward()

    return Engine(update)


def test_it_shows_the_model_at_the_first_batch() -> None:
    """Once, with the shapes of the batch."""
    model = _model()
    shown: list[str] = []
    trainer = _trainer(model)
    ModelSummarizer(model, output=shown.append).attach(trainer)
    trainer.run([(torch.ones(4, 2), torch.ones(4))] * 3)
    assert len(shown) == 1
    assert "[4, 2]" in shown[0]


def _train_on_rank(rank: int, world_size: int) -> int:
    model = nn.parallel.DistributedDataParallel(_model())
    shown: list[str] = []
    trainer = _trainer(model)
    summarizer = ModelSummarizer(model, output=shown.append)
    summarizer.attach(trainer)
    trainer.run([(torch.ones(4, 2), torch.ones(4))] * 3)
    assert summarizer.summary is not None
    return len(shown)


@pytest.mark.distributed
def test_only_rank_zero_prints() -> None:
    """Under DDP every rank has the summary, and one shows it."""
    assert run_distributed(_train_on_rank, 2) == [1, 0]
