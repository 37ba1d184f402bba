"""The demo in whole runs: compared with a hand-written loop, interrupted and resumed, and read back from its logs."""

import random
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.distributed.run import main as torchrun

from tests.e2e.reference_loop import train_digits_by_hand
from tests.ignite_launch.support import Launch, environment, launch, wait_until
from tests.settings import seeded, threads
from tests.support import Ended, Fork, run_distributed, run_script

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "examples" / "digits.py")
EPOCHS, FREEZE = 4, 3
PER_EPOCH = 22  # batches

pytestmark = pytest.mark.distributed


def _arguments(runs: Path, *arguments: str) -> list[str]:
    shape = ["--epochs", str(EPOCHS), "--freeze-epoch", str(FREEZE), "--seed", str(seeded())]
    return ["--runs", str(runs), *shape, *arguments]


def _threads() -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(threads())}  # those of the hand-written loop, so sums are added in the same order


def _run_forked(runs: Path, *arguments: str, world_size: int = 1, **variables: str) -> Ended:
    """Run it without a launcher and without the time for imports; return how rank 0 ended."""
    runs.mkdir(exist_ok=True)
    return run_script(SCRIPT, *_arguments(runs, *arguments), folder=runs, world_size=world_size, **variables)[0]


def _final_checkpoint(runs: Path) -> dict[str, dict[str, torch.Tensor]]:
    newest = max(runs.glob("*/checkpoint_*.pt"), key=lambda path: path.stat().st_mtime)
    state: dict[str, dict[str, torch.Tensor]] = torch.load(newest, weights_only=True)
    assert state["trainer"]["iteration"] == EPOCHS * PER_EPOCH
    return state


def _same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A two-process run of the demo's job, and what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    done = launch(folder, "--nproc", "2", SCRIPT, *_arguments(folder / "runs"), timeout=100, **_threads())
    assert done.code == 0, done.out + done.err
    return folder / "runs", done.out


def test_the_run_prints_summary_accuracy_and_logs(finished: tuple[Path, str]) -> None:
    """The summary comes first; the accuracy and the logs' folder come last."""
    runs, printed = finished
    assert printed.index("Conv2d") < printed.index("epoch  1/4") < printed.index("validation accuracy")
    accuracy = re.search(r"validation accuracy (\d\.\d+) after 4 epochs", printed)
    assert accuracy
    assert float(accuracy[1]) > 0.9
    assert f"tensorboard --logdir {runs}" in printed


@pytest.fixture(scope="module")
def by_hand() -> tuple[dict[str, torch.Tensor], list[list[float]]]:
    """The hand-written loop's weights, and the learning rates of each update."""
    weights, lrs = run_distributed(train_digits_by_hand, 2, EPOCHS, FREEZE, 1)[0]
    return weights, lrs


def test_weights_equal_a_hand_written_loop(finished: tuple[Path, str], by_hand: tuple[Any, Any]) -> None:
    """Clipping, schedules, groups and freezing, in two processes: the weights are equal, bit for bit."""
    assert _same(_final_checkpoint(finished[0])["model"], by_hand[0])


def test_accumulation_equals_a_hand_written_loop(tmp_path: Path) -> None:
    """The same with two batches per update."""
    assert _run_forked(tmp_path, "--accumulation", "2", world_size=2).code == 0
    by_hand = run_distributed(train_digits_by_hand, 2, EPOCHS, FREEZE, 2)
    assert _same(_final_checkpoint(tmp_path)["model"], by_hand[0][0])


def test_event_files_have_the_lrs_in_use(finished: tuple[Path, str], by_hand: tuple[Any, Any]) -> None:
    """TensorBoard's own reader finds, for each named group, the learning rate of every update."""
    (run,) = finished[0].iterdir()
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    _, lrs = by_hand
    trained = len(lrs) * (FREEZE - 1) // EPOCHS
    for index, (name, last) in enumerate({"stem": trained, "body": trained, "head": len(lrs)}.items()):
        series = events.Scalars(f"lr/{name}")  # a frozen group has no learning rate in use
        assert [event.step for event in series] == list(range(1, last + 1))
        assert [event.value for event in series] == pytest.approx([step[index] for step in lrs[:last]], rel=1e-6)
    per_epoch = len(lrs) // EPOCHS
    assert [event.step for event in events.Scalars("validation/accuracy")] == [
        per_epoch * epoch for epoch in range(1, EPOCHS + 1)
    ]


def _torchrun(arguments: list[str]) -> int:
    torchrun(arguments)
    return 0


def test_torchrun_and_plain_python_run_the_same_script(finished: tuple[Path, str], tmp_path: Path) -> None:
    """Without our launcher: torchrun gives the same weights, and a single process also trains."""
    command = ["--nproc-per-node", "2", SCRIPT, *_arguments(tmp_path / "torchrun")]
    outputs = [tmp_path / "torchrun.out", tmp_path / "torchrun.err"]
    running = Fork(
        _torchrun, command, environment=environment(tmp_path, **_threads()), folder=tmp_path, outputs=outputs
    )
    assert running.wait(100) == 0, outputs[1].read_text()
    assert _same(_final_checkpoint(tmp_path / "torchrun")["model"], _final_checkpoint(finished[0])["model"])
    assert _run_forked(tmp_path / "python", "--bf16", "--epochs", "1").code == 0


# In the first start rank 1 dies at an update that the test has drawn; in the second it waits for Ctrl-C at the 30th.
_DYING = """
import os, runpy, signal, sys
from pathlib import Path
from torch.optim.optimizer import register_optimizer_step_post_hook

death, start = int(sys.argv.pop(1)), os.environ["TORCHELASTIC_RESTART_COUNT"]
updates = 0

def disturb(optimizer, args, kwargs):
    global updates
    updates += 1
    if start == "0" and updates == death:
        os.kill(os.getpid(), signal.SIGKILL)
    if start == "1" and updates == 30:
        Path("waiting").touch()
        signal.pause()

if os.environ["RANK"] == "1":
    register_optimizer_step_post_hook(disturb)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.timeout(240)
def test_a_run_killed_restarted_interrupted_and_resumed_equals_the_undisturbed(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    """A worker killed at any update of two epochs, a restart, Ctrl-C, --resume: weights and state are equal."""
    (tmp_path / "dying.py").write_text(_DYING)
    runs = tmp_path / "runs"
    death = random.Random(seeded(5)).randrange(1, 2 * PER_EPOCH)
    options = ["--nproc", "2", "--max-restarts", "1", "dying.py", f"{death}", SCRIPT]
    with Launch(tmp_path, *options, *_arguments(runs), **_threads()) as running:
        wait_until((tmp_path / "waiting").exists, "the second start's 30th update", 120)
        running.process.send_signal(signal.SIGINT)
        result = running.result()
    assert result.code == 130, (death, result.err)
    assert result.err.count("; restart 1 of 1") == 1
    assert _run_forked(runs, "--resume", world_size=2).code == 0
    assert len(list(runs.iterdir())) == (2 if death <= PER_EPOCH else 1)  # there was no checkpoint to restart from
    undisturbed, resumed = _final_checkpoint(finished[0]), _final_checkpoint(runs)
    assert _same(resumed["model"], undisturbed["model"]), death
    assert resumed["trainer"] == undisturbed["trainer"]
    assert resumed["plateau"] == undisturbed["plateau"]


def test_resume_without_a_run_is_one_sentence(tmp_path: Path) -> None:
    """There is nothing to resume: one message without a traceback, not one per process."""
    ranks = run_script(SCRIPT, *_arguments(tmp_path, "--resume"), folder=tmp_path, world_size=2)
    assert [rank.code for rank in ranks] == [1, 1]
    printed = "".join(rank.err for rank in ranks)
    assert printed.count(f"--resume needs a run with a checkpoint, but {tmp_path} has none\n") == 1
    assert printed.count("needs a run") == 1
    assert "Traceback" not in printed


def test_the_newest_run_is_the_one_to_resume(finished: tuple[Path, str], tmp_path: Path) -> None:
    """If it has no checkpoint yet, --resume and restarted workers do not take an older run."""
    (older,) = finished[0].iterdir()
    shutil.copytree(older, tmp_path / "2000-01-01_00-00-00")
    newest = tmp_path / "2000-01-02_00-00-00"
    newest.mkdir()
    done = _run_forked(tmp_path, "--resume")
    assert done.err.strip() == f"--resume needs a run with a checkpoint, but {newest} has none"
    done = _run_forked(tmp_path, "--epochs", "1", TORCHELASTIC_RESTART_COUNT="1")
    assert "validation accuracy" in done.out, done.err
    assert len(list(tmp_path.iterdir())) == 3


def test_a_resumed_run_tidies_its_folder(finished: tuple[Path, str], tmp_path: Path) -> None:
    """The two newest checkpoints stay, whichever process wrote them; incomplete files are removed."""
    run = shutil.copytree(next(finished[0].iterdir()), tmp_path / "run")
    (run / "tmphalf1234").write_text("half a checkpoint")
    assert _run_forked(tmp_path, "--resume", "--epochs", str(EPOCHS + 1)).code == 0
    kept = {f"checkpoint_{PER_EPOCH * (EPOCHS + more)}.pt" for more in (0, 1)}
    assert {path.name for path in run.glob("[ct]*")} == kept
