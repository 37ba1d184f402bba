"""Set-up for every test and doctest."""

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

# Changes the interpreter that imports it.
collect_ignore = ["launch/startup"]
# A shell's background jobs ignore Ctrl-C, and nohup's a hang-up; so would all processes that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace.update(torch=torch, nn=torch.nn, Engine=Engine, Events=Events)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what `make test-shaken`, `make combinations` and `make gpu` vary."""
    parser.addoption("--seed", type=int, default=0, help="moves the random numbers of every test")
    parser.addoption("--compiler", default="eager", help="torch.compile's backend; inductor takes a minute")
    parser.addoption("--threads", type=int, default=1, help="how many threads torch computes with")
    parser.addoption("--gpu", action="store_true", help="do not hide this machine's GPUs; `make gpu` runs these tests")


def pytest_configure(config: pytest.Config) -> None:
    """Pass the options to every process, and keep nothing between runs."""
    publish(seed=config.getoption("--seed"), number_of_threads=config.getoption("--threads"))
    if not config.getoption("--gpu"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # `make test` proves the same on every machine
    os.environ.pop("COLUMNS", None)  # tables are as wide as the terminal, on which tests must not depend
    # A seed reproduces a failure; hypothesis' folder of failures may not be writable. A busy machine is no failure.
    hypothesis.settings.register_profile("seeded", database=None, deadline=None)
    hypothesis.settings.load_profile("seeded")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Seed hypothesis' examples, and put tests with several processes first: one that starts last makes all wait."""
    items.sort(key=lambda item: item.get_closest_marker("distributed") is None)
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item.obj, "hypothesis"):
            hypothesis.seed(seeded())(item.obj)


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    """Give every test the same random numbers and threads, so sums are always added in the same order."""
    torch.set_num_threads(threads())
    torch.manual_seed(seeded())
    random.seed(seeded())
    np.random.seed(seeded() % 2**32)
