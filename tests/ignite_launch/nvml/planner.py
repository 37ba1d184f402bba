"""Executed by the tests: plans what it reads on stdin, with the devices that the fake NVML gives each case."""

import json
import os
import sys

from ignite_launch.arguments import parse
from ignite_launch.dry_run import plan_as_json, plan_as_shell
from ignite_launch.errors import LaunchError
from ignite_launch.gpus import read_inventory
from ignite_launch.plan import Machine, make_plan


def _plan(case: dict) -> dict:
    # NVML's C code reads the variable where putenv, which os.environ calls, wrote it.
    os.environ.pop("FAKE_NVML", None)
    os.environ.update(case["devices"])
    try:
        options = parse(case["argv"]).options
        machine = Machine(read_inventory(), case["environ"], case["cores"], "python")
        plan = make_plan(options, machine)
    except LaunchError as error:
        return {"error": str(error), "code": error.exit_code}
    return json.loads(plan_as_json(plan)) | {"shell": plan_as_shell(plan)}


if __name__ == "__main__":
    print(json.dumps([_plan(case) for case in json.load(sys.stdin)]))
