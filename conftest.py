"""What every test and doctest starts from."""

import signal
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events

# A shell that starts the tests in the background has them ignore Ctrl-C, nohup a hang-up, and so all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace.update(torch=torch, nn=torch.nn, Engine=Engine, Events=Events)


@pytest.fixture(autouse=True)
def _same_seed() -> None:
    """Give every test the same random numbers, and one thread, so that sums are taken in one order."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
