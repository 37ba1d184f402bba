"""A short version of `python -m tests.e2e.soak`: the demo in two processes, killed within its writes."""

import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.soak.attempt import FREEZE, ONE_THREAD, SCRIPT
from tests.e2e.soak.driver import Soak
from tests.e2e.soak.folder import compare_runs, look, newest_checkpoint
from tests.e2e.soak.moments import KINDS, TARGETS, Kill, draw
from tests.settings import seeded
from tests.support import run_script

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler, to stop a run in a write"),
]
EPOCHS = 4


@pytest.fixture(scope="module")
def soak(tmp_path_factory: pytest.TempPathFactory) -> Soak:
    """A soak with an undisturbed run, which needs no launcher."""
    folder = tmp_path_factory.mktemp("undisturbed")
    ranks = run_script(
        SCRIPT, "--runs", str(folder), "--epochs", str(EPOCHS), *FREEZE, folder=folder, world_size=2, **ONE_THREAD
    )
    assert [rank.code for rank in ranks] == [0, 0], ranks
    (undisturbed,) = folder.iterdir()
    return Soak(tmp_path_factory.mktemp("soak"), 0, epochs=EPOCHS, undisturbed=undisturbed)


@pytest.mark.timeout(240)
def test_a_run_killed_within_its_writes_ends_like_an_uninterrupted_one(soak: Soak) -> None:
    """In a checkpoint, a record and the trimming of an event file: nothing is left running, incomplete or lost."""
    source = random.Random(seeded(8))
    share = [f"{source.random():.3f}" for _ in range(3)]
    soak.kill_once(Kill("checkpoint", "all", f"checkpoint write {source.randint(15, 26)} {share[0]}", 0.0))
    soak.kill_once(Kill("events", "worker 1", f"events write {source.randint(80, 110)} {share[1]}", 0.0))
    soak.kill_once(Kill("trimming", "launcher", f"trimming write 1 {share[2]}", 0.0))
    assert soak.finish().endswith("finished as the undisturbed run")
    assert soak.failures == []
    assert soak.counts["kills"] == 3
    assert [soak.counts[f"stopped: {kind}, within a write"] for kind in ("checkpoint", "events", "trimming")] == [1] * 3
    assert soak.counts["left: a checkpoint under a temporary name"] == 1
    assert soak.counts["left: a trimmed event file under a temporary name"] == 1


def test_damage_in_a_folder_is_found(soak: Soak, tmp_path: Path) -> None:
    """A truncated checkpoint, one of another run, and a lost record are each found."""
    run = shutil.copytree(soak.undisturbed, tmp_path / "run")
    assert (look(run).failures, compare_runs(soak.undisturbed, run)) == ([], [])
    last = newest_checkpoint(run)
    assert last is not None
    last.write_bytes(last.read_bytes()[:-1000])
    assert f"{last.name} cannot be loaded: " in " ".join(look(run).failures)
    last.unlink()
    assert "checkpoint.trainer.iteration: expected 88, got 66" in " ".join(compare_runs(soak.undisturbed, run))
    (events,) = run.glob("*tfevents*")
    events.write_bytes(events.read_bytes()[:-1001])
    assert look(run).halves == {("a part of a record at the end of an event file", events.name)}
    assert "events.scalars" in " ".join(compare_runs(soak.undisturbed, run))


def test_every_kind_of_kill_is_drawn() -> None:
    """In proportion to its weight, and the same for the same seed."""

    def drawn(seed: int) -> list[Kill]:
        source = random.Random(seed)
        numbers = {"checkpoint": 15, "events": 70}
        return [
            draw(source, epochs_left=3, per_epoch=numbers, may_trim=bool(number % 2), seconds=2.0)
            for number in range(400)
        ]

    kills = drawn(seeded(0))
    assert kills == drawn(seeded(0)) != drawn(seeded(1))
    assert Counter(kill.kind for kill in kills).keys() == KINDS.keys()
    assert Counter(kill.target for kill in kills).keys() == set(TARGETS)
    assert all(kill.kind != "trimming" for kill in kills[::2])
