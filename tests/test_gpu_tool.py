"""The script behind ``make gpu``: its message without a GPU, and how it reads pytest's output."""

import subprocess
import sys

import pytest

from tools.gpu import ROOT, count_tests, gpu_count


@pytest.mark.skipif(gpu_count() > 0, reason="this machine has a GPU")
def test_without_a_gpu_it_says_so() -> None:
    """One sentence and exit code 3, before anything runs."""
    command = [sys.executable, "-m", "tools.gpu"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr == "make gpu needs an NVIDIA GPU with its driver, but this machine has none.\n"


def test_tests_are_counted_in_verbose_output() -> None:
    """From one process and from several, also if the output is cut off before the summary."""
    alone = "a.py::test_b PASSED [ 50%]\na.py::test_c[x] FAILED [100%]\nFAILED a.py::test_c[x] - no"
    assert count_tests(alone) == ["1 passed, 1 failed, 0 skipped, 0 error.", "- a.py::test_c[x] - no"]
    several = "[gw1] [ 10%] PASSED a.py::test_b \n[gw0] [ 20%] SKIPPED a.py::test_d "
    assert count_tests(several) == ["1 passed, 0 failed, 1 skipped, 0 error."]
