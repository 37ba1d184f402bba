"""The seed and the number of threads of a test run, in every process that it starts.

``pytest --seed N --threads N`` puts both into the environment, where forks and subprocesses find them.
"""

import os

__all__ = ["publish", "seeded", "threads"]

_SEED, _THREADS = "IGNITE_TIPS_TESTS_SEED", "OMP_NUM_THREADS"
_APART = 1_000_003  # more than any test's own seeds


def publish(*, seed: int, number_of_threads: int) -> None:
    """Set both for this process and its children; torch and its libraries read the threads' variable."""
    os.environ[_SEED], os.environ[_THREADS] = str(seed), str(number_of_threads)
    # Threads that spin while they wait take the cores from those that they wait for, where there are more than cores.
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def seeded(local: int = 0) -> int:
    """Return the seed for a test that would use ``local``: the same number, unless --seed changes it."""
    return local + _APART * int(os.environ.get(_SEED, "0"))


def threads() -> int:
    """Return how many threads torch uses: one, unless --threads says otherwise."""
    return int(os.environ.get(_THREADS, "1"))
