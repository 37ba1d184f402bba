"""The script behind ``make gpu``: its words without a GPU, and what it reads out of pytest's output."""

import subprocess
import sys

from tools.gpu import count_tests


def test_without_a_gpu_it_says_so(tmp_path: object) -> None:
    """In one sentence, with exit code 3, before anything is run."""
    command = [sys.executable, "-m", "tools.gpu"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env={"LD_LIBRARY_PATH": "/nonexistent"})
    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr == "make gpu needs an NVIDIA GPU with its driver, and there is none here.\n"


def test_tests_are_counted_in_verbose_output() -> None:
    """Of one process and of several, also where the output was cut off before its summary."""
    alone = "a.py::test_b PASSED [ 50%]\na.py::test_c[x] FAILED [100%]\nFAILED a.py::test_c[x] - no"
    assert count_tests(alone) == ["1 passed, 1 failed, 0 skipped, 0 error.", "- a.py::test_c[x] - no"]
    several = "[gw1] [ 10%] PASSED a.py::test_b \n[gw0] [ 20%] SKIPPED a.py::test_d "
    assert count_tests(several) == ["1 passed, 0 failed, 1 skipped, 0 error."]
