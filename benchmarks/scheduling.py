"""The cost of a schedule per step: ours, ``scheduler.step()`` by hand, Ignite's LRScheduler and other frameworks.

In all loops the update is ``optimizer.step()`` alone. Each is compared with its own framework's loop without a
schedule, so the difference is the scheduling.
"""

from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers.param_scheduler import LRScheduler as IgniteLRScheduler
from torch.optim import SGD
from torch.optim.lr_scheduler import LRScheduler, StepLR

from benchmarks.loops import Loop, groups_of, in_accelerate, in_ignite, in_lightning
from benchmarks.peers import add_peers, peer_table
from benchmarks.tables import Table
from benchmarks.timing import added, interleaved, spread
from ignite_tips import OptimizerEvents, SchedulerStepper

STEPS = 200  # per run: enough to hide the run's start and end
ROUNDS = 30
PAIRS = {
    "by hand": ("by hand", "without"),
    "Ignite's": ("Ignite's", "without"),
    "Lightning": ("Lightning", "Lightning, without"),
    "Accelerate": ("Accelerate", "Accelerate, without"),
    "ours": ("ours", "without"),
    "ours, per epoch": ("ours, per epoch", "without"),
}


def measure(quick: bool) -> list[Table]:
    torch.set_num_threads(1)
    table = Table(
        "added",
        {"groups": "", "no scheduler": ".1f"} | dict.fromkeys(PAIRS, ".1f") | {"ours, more than by hand": ".1f"},
        note="Microseconds per step, medians with quartiles: a trainer without a scheduler; what each way of stepping "
        "adds to it; what ours, per update, costs more than the hand-written loop. Ignite's is not a peer: it calls "
        "get_lr() instead of step(), which gives wrong learning rates for many schedulers (ignite_schedulers).",
    )
    peers = peer_table()
    for groups in (1, 10, 100):
        seconds = interleaved(_loops(groups), rounds=3 if quick else ROUNDS, number=1)
        cost = added(seconds, PAIRS, STEPS)
        more = added(seconds, {"more": ("ours", "by hand")}, STEPS)["more"]
        bare = median(seconds["without"]) / STEPS * 1e6
        table.add(groups, bare, *(spread(values) for values in cost.values()), spread(more))
        # Ignite's does other work; a schedule per epoch does almost none.
        same = {name: cost[name] for name in ("by hand", "Lightning", "Accelerate", "ours")}
        add_peers(peers, f"{groups} group{'s' * (groups > 1)}", same)
    return [table, peers]


def _loops(groups: int) -> dict[str, Loop]:
    def make(framework: Callable[..., Loop], use: Callable[[LRScheduler], dict[str, Any]] = lambda _: {}) -> Loop:
        optimizer = SGD(groups_of(groups), lr=0.1)
        return framework(optimizer, STEPS, **use(StepLR(optimizer, 10**9)))

    return {
        "without": make(in_ignite),
        "by hand": make(in_ignite, lambda scheduler: {"after": [scheduler.step]}),
        "ours": make(in_ignite, lambda scheduler: {"attach": _attach(scheduler, OptimizerEvents.STEP_COMPLETED)}),
        "ours, per epoch": make(in_ignite, lambda scheduler: {"attach": _attach(scheduler, Events.EPOCH_COMPLETED)}),
        "Ignite's": make(in_ignite, lambda scheduler: {"attach": _attach_ignites(scheduler)}),
        "Lightning, without": make(in_lightning),
        "Lightning": make(in_lightning, lambda scheduler: {"scheduler": scheduler}),
        "Accelerate, without": make(in_accelerate),
        "Accelerate": make(in_accelerate, lambda scheduler: {"scheduler": scheduler}),
    }


def _attach(scheduler: LRScheduler, event: Any) -> Callable[[Engine], object]:
    return lambda trainer: SchedulerStepper(scheduler).attach(trainer, event)


def _attach_ignites(scheduler: LRScheduler) -> Callable[[Engine], object]:
    return lambda trainer: trainer.add_event_handler(Events.ITERATION_STARTED, IgniteLRScheduler(scheduler))
