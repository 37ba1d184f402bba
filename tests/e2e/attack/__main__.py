"""Attack the launcher and event files with random misfortunes, and count what goes wrong: nothing should.

python -m tests.e2e.attack --deaths 150 --environments 100 --files 10000 --losses 40 --torchrun 30 --seed 0
"""

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue

from tests.e2e.attack.damage import DAMAGES, Run, resume_over_damage
from tests.e2e.attack.deaths import Death, attack, draw, torchrun_leaves
from tests.e2e.attack.environments import try_environment
from tests.e2e.attack.node_losses import draw_loss, lose_a_node
from tests.ignite_launch.hosts import Host, NoHostsError, make_hosts

_PAIRS = 4  # of hosts: a loss is mostly a wait for heartbeats


class _Record:
    """What was tried, by kind, and what went wrong."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []

    def add(self, kind: str, what: object, wrong: str) -> None:
        """Count a try; ``wrong`` is empty if nothing went wrong."""
        self.counts[kind] += 1
        if wrong:
            self.failures.append(f"{what}: {wrong}")
            print(f"FAILED: {what}: {wrong}", flush=True)

    def print(self, seed: int) -> None:
        """Print the counts."""
        for kind in sorted(self.counts):
            print(f"{kind:<44} {self.counts[kind]:6,d}")
        print(f"{'failures':<44} {len(self.failures):6,d}   (seed {seed})")


def _in_folder(act: Callable[[Path], str]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        return act(Path(folder))


def _attack_launches(deaths: list[Death], record: _Record) -> None:
    for death in deaths:
        wrong = _in_folder(lambda folder, death=death: attack(folder, death))
        record.add(f"death: {death.number.name} to the {death.victim}", death, wrong)


def _attack_environments(number: int, source: random.Random, record: _Record) -> None:
    for _ in range(number):
        record.add("environment", "environment", _in_folder(lambda folder: try_environment(folder, source)))


def _attack_files(number: int, source: random.Random, record: _Record) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder))
    for place in range(number):
        kind, seed = list(DAMAGES)[place % len(DAMAGES)], source.getrandbits(32)
        wrong = _in_folder(
            lambda folder, kind=kind, seed=seed: resume_over_damage(folder, run, kind, random.Random(seed))
        )
        record.add(f"event file: {kind}", f"{kind}, seed {seed}", wrong)


def _attack_nodes(number: int, source: random.Random, record: _Record) -> None:
    losses = [draw_loss(source) for _ in range(number)]
    with ExitStack() as stack:
        pairs: SimpleQueue[tuple[Host, Host]] = SimpleQueue()
        try:
            for place in range(min(_PAIRS, number)):
                pairs.put(stack.enter_context(make_hosts(place)))
        except NoHostsError as error:
            print(f"no node losses: {error}", flush=True)
            return

        def lose(place: int) -> str:
            hosts = pairs.get()
            try:
                return _in_folder(lambda folder: lose_a_node(folder, hosts, losses[place]))
            finally:
                pairs.put(hosts)

        with ThreadPoolExecutor(_PAIRS) as pool:
            for loss, wrong in zip(losses, pool.map(lose, range(number)), strict=True):
                record.add(f"node loss: {loss.kind}", loss, wrong)


def _compare_with_torchrun(deaths: list[Death]) -> None:
    """Print how many processes live on after the same deaths under torchrun; under this launcher none may."""
    if not deaths:
        return
    left = []
    for death in deaths:
        with tempfile.TemporaryDirectory() as folder:
            left.append(torchrun_leaves(Path(folder), death))
    runs = sum(map(bool, left))
    print(f"torchrun, the same {len(deaths)} deaths: {sum(left)} processes live on, after {runs} of the runs")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.attack", description=__doc__)
    for name, number in {"deaths": 150, "environments": 100, "files": 10_000, "losses": 40, "torchrun": 30}.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    source, record = random.Random(arguments.seed), _Record()
    deaths = [draw(source) for _ in range(max(arguments.deaths, arguments.torchrun))]
    _attack_launches(deaths[: arguments.deaths], record)
    _attack_environments(arguments.environments, source, record)
    _attack_files(arguments.files, source, record)
    _attack_nodes(arguments.losses, source, record)
    # torchrun has no reaper.
    _compare_with_torchrun([death for death in deaths if death.victim != "reaper"][: arguments.torchrun])
    record.print(arguments.seed)
    return 1 if record.failures else 0


if __name__ == "__main__":
    sys.exit(main())
