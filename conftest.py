"""What every test and doctest starts from."""

import os
import random
import signal
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events

from tests.settings import publish, seeded, threads

# A shell that starts the tests in the background has them ignore Ctrl-C, nohup a hang-up, and so all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace.update(torch=torch, nn=torch.nn, Engine=Engine, Events=Events)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what `make test-shaken` varies."""
    parser.addoption("--seed", type=int, default=0, help="moves the random numbers of every test")
    parser.addoption("--threads", type=int, default=1, help="how many threads torch computes with")


def pytest_configure(config: pytest.Config) -> None:
    """Pass the options on to every process, and keep nothing from one run to the next."""
    publish(seed=config.getoption("--seed"), number_of_threads=config.getoption("--threads"))
    os.environ.pop("COLUMNS", None)  # tables are as wide as the terminal, which is not the tests' affair
    # A seed reproduces what failed; a folder of failures may not be there to be written to.
    hypothesis.settings.register_profile("seeded", database=None)
    hypothesis.settings.load_profile("seeded")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Draw hypothesis' examples from the seed."""
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item.obj, "hypothesis"):
            hypothesis.seed(seeded())(item.obj)


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    """Give every test the same random numbers, and as many threads, so that sums are taken in one order."""
    torch.set_num_threads(threads())
    torch.manual_seed(seeded())
    random.seed(seeded())
    np.random.seed(seeded() % 2**32)
