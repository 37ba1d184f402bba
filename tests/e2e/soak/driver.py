"""Kill runs of the demo, and compare each finished one with an undisturbed run."""

import random
import re
import time
from collections import Counter
from pathlib import Path

from tests.e2e.soak.attempt import Attempt, build_pause
from tests.e2e.soak.folder import Left, compare_runs, look, newest_checkpoint, position
from tests.e2e.soak.moments import Kill, draw
from tests.ignite_launch.support import wait_until

__all__ = ["Soak"]


class Soak:
    """Kills the demo at moments drawn from a seed.

    Attributes:
        failures: what went wrong, one line each.
        undisturbed: the folder of the run that was not killed.
        counts: the number of kills by target and by kind of moment, what they left, and how runs continued.
        longest_end: the maximum seconds from a kill until no process of the run was left.
    """

    def __init__(self, folder: Path, seed: int, *, epochs: int, undisturbed: Path | None = None) -> None:
        """Without a finished ``undisturbed`` run, train one; kills are drawn within the time that it took."""
        self._folder = folder.resolve()
        self._runs = self._folder / "runs"
        self._scratch = self._folder / "scratch"
        for path in (self._runs, self._scratch):
            path.mkdir()
        self._pause = build_pause(self._scratch)
        self._seed = seed
        self._epochs = epochs
        self._left = Left()  # of the current run; empty before its first checkpoint
        self._run: Path | None = None
        self.failures: list[str] = []
        self.counts: Counter[str] = Counter()
        self.longest_end = 0.0
        self.undisturbed = undisturbed or self._train_undisturbed()

    def kill_once(self, kill: Kill | None = None) -> str:
        """Start or resume a run, kill it, check what is left; return a line about it."""
        kill = kill or self._draw()
        before, known = self._left.epoch, set(self._runs.iterdir())
        attempt = Attempt(self._runs, self._scratch, self._pause, kill.stop, *self._arguments())
        try:
            code = attempt.kill(kill)
        except TimeoutError as error:
            self._fail(kill, f"{error}\n{attempt.output}")
        else:
            if not attempt.killed and code != 0:
                self._fail(kill, f"exit code {code} without a kill:\n{attempt.output}")
        self._count(kill, attempt)
        self._look(kill, attempt, known)
        reached = "" if attempt.killed else "not reached, "
        words = f"{kill}: {reached}epoch {before} -> {self._left.epoch}, {time.monotonic() - attempt.launched:.1f} s"
        if self._left.epoch == self._epochs:
            words += f"; finished{self._finish(kill)}"
        return words

    def finish(self) -> str:
        """Let the current run finish, if there is one, and compare it."""
        if self._left.epoch == 0:
            return "there is no current run"
        known, before = set(self._runs.iterdir()), self._left.epoch
        attempt = Attempt(self._runs, self._scratch, self._pause, None, *self._arguments())
        nothing = Kill("nobody", "nobody", None, 0)
        if attempt.wait() != 0:
            self._fail(nothing, attempt.output)
        self._count(nothing, attempt)
        self._look(nothing, attempt, known)
        if self._left.epoch != self._epochs:
            self._fail(nothing, f"it ended at epoch {self._left.epoch}")
        return f"the last run, from epoch {before} on: finished{self._finish(nothing)}"

    def _train_undisturbed(self) -> Path:
        undisturbed = self._folder / "undisturbed"
        undisturbed.mkdir()
        log = self._scratch / "operations"
        attempt = Attempt(undisturbed, self._scratch, self._pause, None, "--epochs", str(self._epochs))
        wait_until(lambda: log.exists() or attempt.process.poll() is not None, "the undisturbed run's start", 100)
        self._seconds = time.monotonic() - attempt.launched
        if attempt.wait() != 0:
            raise RuntimeError(f"the undisturbed run failed:\n{attempt.output}")
        made = Counter(line.split()[0] for line in log.read_text().splitlines())
        self._per_epoch = {kind: made[kind] // self._epochs for kind in ("checkpoint", "events")}
        return next(undisturbed.iterdir())

    def _arguments(self) -> list[str]:
        return ["--epochs", str(self._epochs), *(["--resume"] if self._left.epoch else [])]

    def _draw(self) -> Kill:
        may_trim = False
        if self._run is not None and (newest := newest_checkpoint(self._run)):
            may_trim = position(self._run)[1] > int(newest.stem.rpartition("_")[2])
        left = self._epochs - self._left.epoch
        source = random.Random(f"{self._seed} {self.counts['kills']} {self.counts['ended before the moment came']}")
        return draw(source, epochs_left=left, per_epoch=self._per_epoch, may_trim=may_trim, seconds=self._seconds)

    def _look(self, kill: Kill, attempt: Attempt, known: set[Path]) -> None:
        before, earlier = self._left.epoch, self._left.halves
        new = sorted(set(self._runs.iterdir()) - known)
        if len(new) > (0 if before else 1):
            self._fail(kill, f"started after epoch {before}, it created the folders {new}")
        if new:
            self._run = new[0]
        elif before == 0:
            return  # killed before it created a folder
        assert self._run is not None
        self._left = left = look(self._run)
        for failure in left.failures:
            self._fail(kill, failure)
        shown = [int(epoch) for epoch in re.findall(r"^epoch +(\d+)/", attempt.output, re.MULTILINE)]
        if shown and shown[0] != before + 1:
            self._fail(kill, f"resumed from epoch {before}, it continued with {shown[0]}")
        if left.epoch < max([before, *(epoch - 1 for epoch in shown)]):
            self._fail(
                kill, f"it showed epoch {shown[-1:]}, started after {before}, and has checkpoints up to {left.epoch}"
            )
        for what in left.halves - earlier:
            self.counts[f"left: {what[0]}"] += 1

    def _finish(self, kill: Kill) -> str:
        assert self._run is not None
        found = compare_runs(self.undisturbed, self._run)
        for line in found:
            self._fail(kill, line)
        self.counts["runs finished"] += 1
        self._left, self._run = Left(), None
        return f", {len(found)} differences from the undisturbed run" if found else " as the undisturbed run"

    def _count(self, kill: Kill, attempt: Attempt) -> None:
        self.longest_end = max(self.longest_end, attempt.end_seconds)
        if self._left.epoch:
            self.counts["resumes"] += 1
        if attempt.killed:
            self.counts["kills"] += 1
            self.counts[f"target: {kill.target}"] += 1
            self.counts[f"moment: {kill.kind}"] += 1
            if attempt.stopped and not kill.seconds:
                self.counts[f"stopped: {kill.kind}, {attempt.stopped}"] += 1
        else:
            self.counts["ended before the moment came"] += 1

    def _fail(self, kill: Kill, words: str) -> None:
        self.failures.append(f"{kill}: {words}")
