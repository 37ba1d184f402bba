"""A short version of `python -m tests.e2e.attack`."""

import random
import signal
from pathlib import Path

import pytest

from tests.e2e.attack import Death, attack, draw, try_environment
from tests.settings import seeded


@pytest.mark.parametrize("number", range(3))
def test_a_signal_ends_or_spares_the_whole_run(tmp_path: Path, number: int) -> None:
    """A random signal to a random process: the exit code fits, nothing is left, no traceback of the launcher's."""
    death = draw(random.Random(seeded(number)))
    assert attack(tmp_path, death) == "", death


@pytest.mark.parametrize("number", range(2))
def test_strange_variables_are_harmless_or_told(tmp_path: Path, number: int) -> None:
    """Random values of the variables that a launcher reads: the run goes well, or one sentence says what is wrong."""
    assert try_environment(tmp_path, random.Random(seeded(number))) == ""


def test_a_wrong_exit_code_is_found(tmp_path: Path) -> None:
    """The attack itself can fail: a worker that was killed in its training does not explain exit code 0."""
    death = Death("worker", signal.SIGKILL, "training", 0.5)
    assert [death.explains(code) for code in (0, 1, 137, 143)] == [False, False, True, False]
    assert attack(tmp_path, death) == ""
