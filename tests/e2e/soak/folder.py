"""What a killed run left in its folder, and whether a finished run equals another."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from ignite_tips.tensorboard.event_files import event_files, position_in, records
from tests.e2e.sameness import differences

__all__ = ["Left", "compare_runs", "look", "newest_checkpoint", "position"]

_KNOWN = re.compile(r"checkpoint_\d+\.pt|events\.out\.(tfevents|superseded-after-\d+|new)\..*|tmp\w{8}")
# Its points are at the ends of what one process wrote, so its levels are compared separately.
_STEPWISE = ("trainable_fraction", "skipped_steps")


@dataclass
class Left:
    """What was found: how far the checkpoints are, what a kill left incomplete (and in which file), and failures."""

    epoch: int = 0
    halves: set[tuple[str, str]] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)


def newest_checkpoint(run: Path) -> Path | None:
    return max(run.glob("checkpoint_*.pt"), key=_iteration, default=None)


def look(run: Path) -> Left:
    """Read every file of a run, as the next start or TensorBoard would."""
    left = Left()
    for path in sorted(run.iterdir()):
        if not _KNOWN.fullmatch(path.name):
            left.failures.append(f"{path.name} should not be there")
        if path.name.startswith("tmp"):
            left.halves.add(("a checkpoint under a temporary name", path.name))
        if path.name.startswith("events.out.new"):
            left.halves.add(("a trimmed event file under a temporary name", path.name))
        if path.suffix == ".pt":
            try:
                trainer = torch.load(path, weights_only=True)["trainer"]
            except Exception as error:  # any error here is one that a user would see
                left.failures.append(f"{path.name} cannot be loaded: {error}")
                continue
            left.epoch = max(left.epoch, trainer["iteration"] // trainer["epoch_length"])
            if trainer["iteration"] != _iteration(path):
                left.failures.append(f"{path.name} is of iteration {trainer['iteration']}")
    for pattern, most in (("checkpoint_*.pt", 3), ("tmp*", 1), ("events.out.new*", 1)):
        if (found := len(list(run.glob(pattern)))) > most:
            left.failures.append(f"there are {found} files {pattern}")
    for path in event_files(run):
        with open(path, "rb") as file:
            ends = [end for _, end, _ in records(file)]
        if path.stat().st_size > max(ends, default=0):
            left.halves.add(("a part of a record at the end of an event file", path.name))
        read = sum(1 for _ in EventFileLoader(str(path)).Load())
        if read != len(ends):
            left.failures.append(f"TensorBoard reads {read} of the {len(ends)} whole records of {path.name}")
    return left


def position(run: Path) -> tuple[int, int]:
    """Return the first and the last iteration of the trainer that the newest event file records."""
    files = event_files(run)
    if not files:
        return 0, 0
    with open(files[-1], "rb") as file:
        positions = [position_in(data) for _, _, data in records(file) if data is not None]
    iterations = [position[1] for position in positions if position is not None]
    return (iterations[0], iterations[-1]) if iterations else (0, 0)


def compare_runs(expected: Path, run: Path) -> list[str]:
    """Return where a finished run differs from another: last checkpoint, curves, annotations."""
    first, last = newest_checkpoint(expected), newest_checkpoint(run)
    if first is None or last is None:
        return ["there is no checkpoint"]
    found = differences(torch.load(first, weights_only=True), torch.load(last, weights_only=True), "checkpoint")
    return found + differences(_written(expected), _written(run), "events")


def _written(run: Path) -> dict[str, Any]:
    reader = EventAccumulator(str(run), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    scalars = {tag: [(point.step, point.value) for point in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}
    scalars |= {tag: _corners(scalars.get(tag, [])) for tag in _STEPWISE}
    annotations = []
    if "annotations/text_summary" in reader.Tags()["tensors"]:
        for annotation in reader.Tensors("annotations/text_summary"):
            annotations.append((annotation.step, annotation.tensor_proto.string_val[0].decode().split("\n")[0]))
    return {"scalars": dict(sorted(scalars.items())), "annotations": annotations}


def _corners(points: list[tuple[int, float]]) -> list[tuple[float, int]]:
    """Return the values of a curve drawn as steps, and where each begins."""
    return [(value, step) for index, (step, value) in enumerate(points) if index == 0 or value != points[index - 1][1]]


def _iteration(checkpoint: Path) -> int:
    return int(checkpoint.stem.rpartition("_")[2])
