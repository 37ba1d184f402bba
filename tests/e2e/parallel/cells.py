"""The cells of the table: train on several ranks, resume, and compare with one process."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ignite_tips.tensorboard.run_reader import read_run
from tests.e2e.parallel.by_hand import BATCHES, CLIPS, FROZEN_IN, Outcome, train_by_hand
from tests.e2e.parallel.job import SAVED, Job
from tests.oracles import TRAINED_IN_DOUBLE
from tests.strategies import STRATEGIES
from tests.support import run_distributed

__all__ = ["CLIPS", "WAYS", "Cell", "add_outcomes", "failures", "tolerance", "train_cells", "train_here"]

Cell = tuple[str, str]  # a strategy and a clipper
Trained = tuple[Cell, str, Outcome]
WAYS = ("whole", "from files", "from DCP")  # uninterrupted, and resumed from what that run saved
# As TRAINED_IN_DOUBLE for the rounding of float32, but with no more than the six updates of this job.
TRAINED_IN_SINGLE = 1_000 * 2.0**-24 * 2**6


def tolerance(strategy: str) -> float:
    """Return the allowed difference from one process: ranks add in another order."""
    return TRAINED_IN_SINGLE if "mixed precision" in strategy else TRAINED_IN_DOUBLE


def train_cells(
    cells: Iterable[Cell], ways: Sequence[Sequence[str]], folder: Path
) -> dict[Cell, dict[str, list[Outcome]]]:
    """Train each cell in all ways, and return what each rank ended with.

    ``ways`` says which of them share processes; each list gets new ones.
    """
    found: dict[Cell, dict[str, list[Outcome]]] = {cell: {} for cell in cells}
    for ranks in sorted({STRATEGIES[strategy].ranks for strategy, _ in found}):
        of_these = [cell for cell in found if STRATEGIES[cell[0]].ranks == ranks]
        for together in ways:
            for trained in run_distributed(_train, ranks, of_these, together, folder, timeout=600):
                add_outcomes(found, trained)
    return found


def add_outcomes(found: dict[Cell, dict[str, list[Outcome]]], trained: list[Trained]) -> None:
    """Add what one rank has trained."""
    for cell, way, outcome in trained:
        found.setdefault(cell, {}).setdefault(way, []).append(outcome)


def _train(rank: int, world_size: int, cells: list[Cell], ways: Sequence[str], folder: Path) -> list[Trained]:
    return train_here(cells, ways, folder)


def train_here(cells: list[Cell], ways: Sequence[str], folder: Path) -> list[Trained]:
    """Train cells on this rank."""
    results = []
    for cell in cells:
        for way in ways:
            if way == "from DCP" and cell[0].startswith("ZeRO"):
                continue  # torch has no such checkpoint of it
            job = Job(STRATEGIES[cell[0]], cell[1], folder / cell[0] / cell[1])
            {"whole": job.save, "from files": job.load, "from DCP": job.load_flat}[way]()
            results.append((cell, way, job.run()))
    return results


def failures(cell: Cell, results: dict[str, list[Outcome]], folder: Path) -> list[str]:
    """Return what is wrong with a cell, in words; nothing if all is right."""
    expected, allowed = train_by_hand(CLIPS[cell[1]]()), tolerance(cell[0])
    whole = results["whole"]
    found = _not_near("weights", _merged([each.weights for each in whole]), expected.weights, allowed)
    found += _not_near("momenta", _merged([each.momenta for each in whole]), expected.momenta, allowed)
    norms, factors = np.array([each.norms for each in whole]), np.array([each.factors for each in whole])
    found += [] if (norms == norms[0]).all() else ["the ranks' norms differ"]
    found += [] if np.allclose(norms, expected.norms, rtol=allowed, atol=0) else ["norms"]
    # AGC's factor is that of the rank's own stage.
    found += [] if np.allclose(factors.min(axis=0), expected.factors, rtol=allowed, atol=0) else ["factors"]
    for each in whole:
        for own, all_groups in zip(each.lrs, expected.lrs, strict=True):
            found += [] if own.items() <= all_groups.items() else [f"learning rates {own}, not {all_groups}"]
    for way in results.keys() - {"whole"}:
        for rank, (one, other) in enumerate(zip(whole, results[way], strict=True)):
            found += [f"{way}, rank {rank}: {line}" for line in _not_resumed(one, other)]
    found += _not_logged(folder / cell[0] / cell[1] / "log", expected, whole[0])
    return [f"{cell[0]}, {cell[1]}: {line}" for line in found]


def _merged(of_ranks: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors of all ranks; one that several have, equal, or else full of NaN."""
    merged: dict[str, Tensor] = {}
    for tensors in of_ranks:
        for name, tensor in tensors.items():
            same = name not in merged or torch.equal(merged[name], tensor)
            merged[name] = tensor if same else torch.full_like(tensor, torch.nan)
    return merged


def _not_near(what: str, got: dict[str, Tensor], expected: dict[str, Tensor], allowed: float) -> list[str]:
    if got.keys() != expected.keys():
        return [f"{what} of {sorted(got)}, not of {sorted(expected)}"]
    scale = max(float(tensor.abs().max()) for tensor in expected.values())
    furthest = {name: float((got[name].double() - expected[name].double()).abs().max()) for name in got}
    return [f"{what}: {name} is {far} off" for name, far in furthest.items() if not far <= allowed * scale]


def _not_resumed(whole: Outcome, resumed: Outcome) -> list[str]:
    """Return what is not bit for bit as in the uninterrupted run."""
    done = SAVED * BATCHES
    pairs: dict[str, tuple[Any, Any]] = {
        "norms": (whole.norms[done:], resumed.norms),
        "factors": (whole.factors[done:], resumed.factors),
        "learning rates": (whole.lrs[done:], resumed.lrs),
    }
    found = [what for what, (one, other) in pairs.items() if one != other]
    for one, other in ((whole.weights, resumed.weights), (whole.momenta, resumed.momenta)):
        found += [name for name in one.keys() | other.keys() if not torch.equal(one[name], other[name])]
    return found


def _not_logged(folder: Path, expected: Outcome, first: Outcome) -> list[str]:
    """Compare the curves of rank 0, which the last run has left, with the learning rates of all updates."""
    found = []
    series = read_run(folder).series
    for name in first.lrs[0].keys() - {"stem"}:
        updates = [n for n in range(len(expected.lrs)) if name != "body" or n // BATCHES + 1 != FROZEN_IN]
        curve = series[f"lr/{name}"]
        lrs = np.array([expected.lrs[n][name] for n in updates], dtype=np.float32)
        if [n + 1 for n in updates] != curve.steps.tolist() or not np.array_equal(lrs, curve.values):
            found.append(f"the log has {name} at {curve.steps.tolist()}: {curve.values.tolist()}")
    return found
