"""A short version of `python -m tests.e2e.attack`; tests/ignite_launch/test_heartbeat.py has the losses of nodes."""

import random
import signal
from pathlib import Path

import pytest

from tests.e2e.attack.damage import DAMAGES, Run, resume_over_damage
from tests.e2e.attack.deaths import Death, attack, draw
from tests.e2e.attack.environments import try_environment
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


def test_a_run_resumes_over_any_damage(tmp_path: Path) -> None:
    """Each kind of damage to an event file costs at most what was damaged, and never the resume."""
    (tmp_path / "run").mkdir()
    run = Run(tmp_path / "run")
    for number in range(10):
        for kind in DAMAGES:
            folder = tmp_path / f"{kind} {number}"
            folder.mkdir()
            assert resume_over_damage(folder, run, kind, random.Random(seeded(number))) == "", (kind, number)


def test_a_resume_that_loses_something_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack on event files itself can fail: without the cut at the checkpoint, steps would come twice."""
    for name in ("run", "resumed"):
        (tmp_path / name).mkdir()
    run = Run(tmp_path / "run")
    monkeypatch.setattr("ignite_tips.tensorboard.resumable_logger.truncate_after", lambda *_, **__: 0)
    monkeypatch.setitem(DAMAGES, "none", lambda data, source: data)
    assert "TensorBoard reads the steps" in resume_over_damage(tmp_path / "resumed", run, "none", random.Random(0))


def test_a_wrong_exit_code_is_found(tmp_path: Path) -> None:
    """The attack itself can fail: a worker that was killed in its training does not explain exit code 0."""
    death = Death("worker", signal.SIGKILL, "training", 0.5)
    assert [death.explains(code) for code in (0, 1, 137, 143)] == [False, False, True, False]
    assert attack(tmp_path, death) == ""
