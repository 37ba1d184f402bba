"""Which schedule lengths fit a run."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import SGD
from torch.optim.lr_scheduler import ChainedScheduler, CosineAnnealingLR, LRScheduler, OneCycleLR, SequentialLR, StepLR

from ignite_tips import with_warmup
from ignite_tips.schedules.run_length import find_mismatches

OPTIMIZER = SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)


@given(length=st.integers(2, 200), steps=st.integers(1, 400))
def test_between_half_and_whole_a_run_fits(length: int, steps: int) -> None:
    """A schedule is too long for a run of at most half its length, and too short for one that passes its end."""
    misfits = find_mismatches(CosineAnnealingLR(OPTIMIZER, length), steps)
    too_long, too_short = 2 * steps <= length, steps > length + 1
    assert [misfit.too_short for misfit in misfits] == [too_short] * (too_long or too_short)
    assert not any(misfit.fails for misfit in misfits)


@given(length=st.integers(2, 50), done=st.integers(0, 20), steps=st.integers(1, 100))
def test_one_cycle_fails_exactly_when_torch_does(length: int, done: int, steps: int) -> None:
    """It is known whether OneCycleLR's ``step()`` will raise in the run, also for a scheduler already stepped."""
    done = min(done, length)
    scheduler = OneCycleLR(OPTIMIZER, 1.0, total_steps=length, cycle_momentum=False)
    for _ in range(done):
        OPTIMIZER.step()
        scheduler.step()
    OPTIMIZER.step()
    predicted = any(misfit.fails for misfit in find_mismatches(scheduler, steps))
    raised = False
    try:
        for _ in range(steps):
            scheduler.step()
    except ValueError:
        raised = True
    assert predicted == raised


def _texts(scheduler: LRScheduler, steps: int) -> list[str]:
    return [misfit.describe() for misfit in find_mismatches(scheduler, steps)]


def test_parts_are_compared_with_their_own_steps() -> None:
    """In a sequence a part has the steps between its milestones; in a chain each part has all steps."""
    cosine = CosineAnnealingLR
    sequence = SequentialLR(OPTIMIZER, [cosine(OPTIMIZER, 10), cosine(OPTIMIZER, 90)], [10])
    assert _texts(sequence, 100) == []
    assert _texts(sequence, 200) == ["CosineAnnealingLR has T_max 90, but the run steps it 190 times"]
    sequence = SequentialLR(OPTIMIZER, [cosine(OPTIMIZER, 4), StepLR(OPTIMIZER, 5)], [10])
    assert _texts(sequence, 30) == ["CosineAnnealingLR has T_max 4, but the run steps it 10 times"]
    chain = ChainedScheduler([StepLR(OPTIMIZER, 5), cosine(OPTIMIZER, 10)])
    assert _texts(chain, 30) == ["CosineAnnealingLR has T_max 10, but the run steps it 30 times"]
    assert _texts(with_warmup(chain, 20), 30) == []


@pytest.mark.parametrize("steps", [1, 10, 1000])
def test_schedules_without_an_end_fit_every_run(steps: int) -> None:
    """StepLR has no end."""
    assert _texts(StepLR(OPTIMIZER, 3), steps) == []
