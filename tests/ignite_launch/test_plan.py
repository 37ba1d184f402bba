"""Plans: options, GPUs and inherited variables to the right plan or the right error."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.ignite_launch.cluster_cases import CLUSTER_CASES
from tests.ignite_launch.nvml import fake_nvml
from tests.ignite_launch.plan_cases import CASES, MACHINES, Case

ALL_CASES = CASES + CLUSTER_CASES


@pytest.fixture(scope="module")
def answers() -> dict[str, dict[str, Any]]:
    """The launcher's plan for every case, made in one process in which the real bindings load the fake library."""
    questions = [
        {
            "argv": [*case.options.split(), "s.py"],
            "devices": {} if MACHINES[case.machine] is None else fake_nvml(*MACHINES[case.machine]),
            "environ": case.environ,
            "cores": 8,
        }
        for case in ALL_CASES
    ]
    planner = Path(__file__).with_name("nvml") / "planner.py"
    done = subprocess.run(
        [sys.executable, planner],
        input=json.dumps(questions),
        env=fake_nvml() | {"PYTHONPATH": "."},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return {f"{number}": answer for number, answer in enumerate(json.loads(done.stdout))}


@pytest.mark.parametrize(("number", "case"), list(enumerate(ALL_CASES)), ids=[str(case) for case in ALL_CASES])
def test_the_plan(answers: dict[str, dict[str, Any]], number: int, case: Case) -> None:
    """Each combination gives the plan or the error of the table."""
    answer = answers[str(number)]
    if case.sentence:
        assert answer.get("code") == 2, answer
        assert case.sentence in answer["error"]
        assert "\n" not in answer["error"]
        return
    assert "error" not in answer, answer
    assert (answer["strategy"], answer["processes"]) == (case.strategy, case.processes)
    assert ",".join(answer["gpus"]) == case.gpus
    assert case.reason in answer["reason"]
    assert answer["unset"] == list(case.unset)
    assert answer["max_restarts"] == case.max_restarts
    assert {name: answer["environment"].get(name) for name in case.variables} == case.variables
    assert {name: answer["rendezvous"][name] for name in case.rendezvous} == case.rendezvous


def test_there_are_at_least_60_cases() -> None:
    """The table has at least 60 cases."""
    assert len(CASES) >= 60
