"""A part of the table that `make combinations` makes: kinds of parallelism with all tips, against one process."""

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.parallel.__main__ import BEGIN, END
from tests.e2e.parallel.cells import Cell, add_outcomes, failures, train_here
from tests.e2e.parallel.collectives import CLIPS, Counts, count_collectives
from tests.strategies import STRATEGIES
from tests.support import run_distributed

pytestmark = pytest.mark.distributed
PART: list[Cell] = [
    ("FSDP2 2", "AGC"),
    ("tensor and sequence parallel 2", "value"),
    ("pipeline 2, 1F1B", "AutoClip"),
    ("ZeRO 2", "norm"),
    ("FSDP2 x tensor parallel 2 x 2", "norm"),
    ("pipeline x FSDP2 2 x 2", "ZClip"),
]


def _work(rank: int, world_size: int, folder: Path) -> tuple[Any, dict[str, tuple[Counts, list[str]]]]:
    cells = [cell for cell in PART if STRATEGIES[cell[0]].ranks == world_size]
    trained = train_here(cells, ("whole", "from DCP"), folder)
    return trained, {strategy: count_collectives(strategy) for strategy, _ in cells}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Train and count once, because starting the processes takes most of the time."""
    folder = tmp_path_factory.mktemp("parallel")
    found: dict[str, Any] = {"folder": folder, "outcomes": {}, "counts": {}}
    for ranks in (2, 4):
        for trained, counts in run_distributed(_work, ranks, folder):
            add_outcomes(found["outcomes"], trained)
            for strategy, counted in counts.items():
                found["counts"].setdefault(strategy, []).append(counted)
    return found


@pytest.mark.parametrize("cell", PART, ids=", ".join)
def test_ranks_train_as_one_process(results: dict[str, Any], cell: Cell) -> None:
    """Weights, momenta, norms, factors, learning rates and curves; resumed from DCP bit for bit as uninterrupted."""
    assert failures(cell, results["outcomes"][cell], results["folder"]) == []


@pytest.mark.parametrize("strategy", [strategy for strategy, _ in PART])
def test_clippers_make_no_more_collectives_than_torch(results: dict[str, Any], strategy: str) -> None:
    """Norm clippers make at most those of clip_grad_norm_, and one for a pipeline's stages.

    In the modes that make all ranks agree it is one more, unless the norm is of parts on all ranks. AGC makes the same
    number whatever the number of parameters: four for each dimension of the mesh. Torch warns of nothing.
    """
    stages = int(strategy.startswith("pipeline"))
    # torch takes no model of which a part is no DTensor, or whose DTensors are on several meshes.
    by_hand = {"FSDP2 x tensor parallel 2 x 2": 2}
    agreement = {"FSDP2 2": 0, "pipeline 2, 1F1B": 0, "pipeline x FSDP2 2 x 2": 0}
    for counts, told in results["counts"][strategy]:
        assert told == []
        assert len(counts) == 2 + 2 * (len(CLIPS) - 2)
        for name, of_torch in (("norm", counts["torch"]), ("largest", counts["torch, largest"])):
            allowed = (by_hand[strategy] if of_torch is None else of_torch) + stages
            assert counts[f"{name}, propagate"] <= allowed
            assert counts[f"{name}, raise"] == counts[f"{name}, propagate"] + agreement.get(strategy, 1)
        assert counts["AGC, propagate"] == {"ZeRO 2": 0, "pipeline 2, 1F1B": 1, "pipeline x FSDP2 2 x 2": 5}.get(
            strategy, {"FSDP2 2": 4, "tensor and sequence parallel 2": 6}.get(strategy, 8)
        )


def test_the_table_in_the_documentation_has_every_kind() -> None:
    """And no cell failed when `make combinations` wrote it."""
    page = (Path(__file__).parents[2] / "docs" / "combinations.md").read_text()
    _, _, table = page.partition(BEGIN)
    table, _, _ = table.partition(END)
    assert [line.split(" | ")[0] for line in table.split("\n") if line][2:] == [f"| {name}" for name in STRATEGIES]
    assert "FAILED" not in table
