"""A plan as text: JSON for programs, and the equivalent shell command."""

import json
import shlex
from dataclasses import asdict

from .nodes import STATIC
from .plan import LaunchPlan

__all__ = ["plan_as_json", "plan_as_shell"]


def plan_as_json(plan: LaunchPlan) -> str:
    """Return the plan as a JSON object, with the environment as an object."""
    return json.dumps(asdict(plan) | {"environment": dict(plan.environment)}, indent=2)


def plan_as_shell(plan: LaunchPlan) -> str:
    """Return a POSIX shell command that runs the script in the same way, through torchrun for several processes.

    The command has no supervision: exit codes, grace time and orphans are torchrun's.
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
    # torchrun treats arguments as templates, where $$ is a plain dollar sign.
    target = [word.replace("$", "$$") for word in target]
    return shlex.join([*words, python, "-m", "torch.distributed.run", *_torchrun_options(plan), *target])


def _torchrun_options(plan: LaunchPlan) -> list[str]:
    rendezvous = plan.rendezvous
    options = [f"--nproc-per-node={plan.processes}", f"--max-restarts={plan.max_restarts}"]
    if not rendezvous.several_nodes:
        options.append("--standalone")
    elif rendezvous.node_rank is not None and rendezvous.kind == STATIC:
        options += [
            f"--nnodes={rendezvous.max_nodes}",
            f"--node-rank={rendezvous.node_rank}",
            f"--master-addr={rendezvous.host}",
            f"--master-port={rendezvous.port}",
        ]
    else:
        options += [
            f"--nnodes={rendezvous.min_nodes}:{rendezvous.max_nodes}",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={rendezvous.host}:{rendezvous.port}",
            "--rdzv-id=ignite-launch",
        ]
    if plan.log_dir is not None:
        options += [f"--log-dir={plan.log_dir}", "--redirects=3"]
    return options
