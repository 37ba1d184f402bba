"""A plan as text: JSON for programs, and the shell line that does the same by hand."""

import json
import shlex
from dataclasses import asdict

from .plan import LaunchPlan

__all__ = ["plan_as_json", "plan_as_shell"]


def plan_as_json(plan: LaunchPlan) -> str:
    """Return the plan as a JSON object, its environment as an object too."""
    return json.dumps(asdict(plan) | {"environment": dict(plan.environment)}, indent=2)


def plan_as_shell(plan: LaunchPlan) -> str:
    """Return a line for a POSIX shell that runs the same script in the same way, by torchrun where there are several.

    By hand there is no supervision: exit codes, grace and orphans are then torchrun's.
    """
    words = ["env"]
    for name in plan.unset:
        words += ["-u", name]
    words += [f"{name}={value}" for name, value in plan.environment]
    if not plan.supervised:
        return shlex.join([*words, *plan.command])
    python, *target = plan.command
    if target[0] == "-u":  # torchrun adds it itself
        del target[0]
    # torchrun fills templates in arguments; doubled, a dollar sign stays what it was.
    target = [word.replace("$", "$$") for word in target]
    return shlex.join([*words, python, "-m", "torch.distributed.run", *_torchrun_options(plan), *target])


def _torchrun_options(plan: LaunchPlan) -> list[str]:
    meeting = plan.rendezvous
    options = [f"--nproc-per-node={plan.processes}", f"--max-restarts={plan.max_restarts}"]
    if not meeting.several_nodes:
        options.append("--standalone")
    elif meeting.node_rank is not None and meeting.kind == "static":
        options += [
            f"--nnodes={meeting.max_nodes}",
            f"--node-rank={meeting.node_rank}",
            f"--master-addr={meeting.host}",
            f"--master-port={meeting.port}",
        ]
    else:
        options += [
            f"--nnodes={meeting.min_nodes}:{meeting.max_nodes}",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={meeting.host}:{meeting.port}",
            "--rdzv-id=ignite-launch",
        ]
    if plan.log_dir is not None:
        options += [f"--log-dir={plan.log_dir}", "--redirects=3"]
    return options
