"""The same job on several ranks, with all tips attached."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.optim.lr_scheduler import StepLR

import ignite_tips as tips
from tests.e2e.parallel.by_hand import BATCHES, DECAY, EPOCHS, FROZEN_IN, LRS, Outcome
from tests.strategies import Batch, Network, Strategy, make_batches

SAVED = 2  # the epoch after which the run is saved
_OPTIONS = StateDictOptions(flatten_optimizer_state_dict=True)

CLIPPERS: dict[str, Callable[..., Any]] = {
    "norm": lambda job, **stages: tips.GradientNormClipper(job.optimizer, 0.4, model=job.model, **stages),
    "value": lambda job, **stages: tips.GradientValueClipper(job.optimizer, 0.05, model=job.model),
    "AGC": lambda job, **stages: tips.AdaptiveGradientClipper(
        job.optimizer, 0.02, exclude=job.here("head.*"), model=job.model, **stages
    ),
    "AutoClip": lambda job, **stages: tips.AutoClipper(job.optimizer, 30, model=job.model, **stages),
    "ZClip": lambda job, **stages: tips.ZClipper(
        job.optimizer, alpha=0.9, z_threshold=0.1, max_norm=0.6, warmup_steps=2, model=job.model, **stages
    ),
}


class Job:
    """Model, optimizer, trainer and tips of one strategy and clipper, on this rank."""

    def __init__(self, strategy: Strategy, clipper: str, folder: Path) -> None:
        self.network = Network()
        tips.freeze_parameters(self.network, "stem.*")
        self.parallel = strategy.build(self.network)
        self.model = self.parallel.model
        rules = {f"{name}.*": {"lr": lr} for name, lr in LRS.items() if self.here(f"{name}.*")}
        self.optimizer = self.parallel.make_optimizer(tips.param_groups(self.model, rules))
        self.is_zero = isinstance(self.optimizer, ZeroRedundancyOptimizer)
        self.file_rank = 0 if self.is_zero else dist.get_rank()
        self.trainer = Engine(self._update)
        self.clipped: list[tuple[float, float]] = []
        self.lrs: list[dict[str, float]] = []
        self.folder = folder
        self.handlers = self._attach_tips(clipper)

    def here(self, pattern: str) -> list[str]:
        """Return the pattern, or nothing if this rank's stage has no such parameter."""
        names = [name for name, _ in self.network.named_parameters()]
        return [pattern] if any(fnmatchcase(name, pattern) for name in names) else []

    def _update(self, engine: Engine, batch: Batch) -> None:
        self.model.train()
        self.optimizer.zero_grad()
        self.parallel.backward(batch)
        self.optimizer.step()

    def _attach_tips(self, clipper: str) -> dict[str, Any]:
        trainer, optimizer = self.trainer, self.optimizer
        handlers: dict[str, Any] = {"trainer": trainer}
        if self.here("body.*"):
            handlers["body"] = tips.ParameterFreezer(self.model, "body.*", optimizer=optimizer)
            handlers["body"].attach(
                trainer,
                freeze=Events.EPOCH_STARTED(once=FROZEN_IN),
                unfreeze=Events.EPOCH_STARTED(once=FROZEN_IN + 1),
            )
        stages = {} if self.parallel.stages is None else {"norm_group": self.parallel.stages}
        handlers["clipper"] = CLIPPERS[clipper](self, **stages).attach(trainer)
        handlers["schedule"] = tips.SchedulerStepper(StepLR(optimizer, 1, gamma=DECAY))
        handlers["schedule"].attach(trainer, tips.OptimizerEvents.STEP_COMPLETED)
        self.logger = tips.ResumableTensorboardLogger(self.folder / "log", trainer)
        tips.LearningRateLogger(optimizer).attach(trainer, self.logger)
        trainer.add_event_handler(tips.OptimizerEvents.STEP_STARTED, self._note)
        return handlers

    def _note(self) -> None:
        metrics = self.trainer.state.metrics
        self.clipped.append((float(metrics["grad_norm"]), float(metrics["grad_clip_coef"])))
        self.lrs.append({group["name"]: group["lr"] for group in self.optimizer.param_groups})

    def save(self) -> None:
        """Let the next run save itself after an epoch: one file per rank, and torch.distributed.checkpoint.

        ZeRO has one file, for which Ignite gathers the optimizer's state on rank 0.
        """
        events = Events.EPOCH_COMPLETED(once=SAVED)
        saver = DiskSaver(self.folder / str(self.file_rank), save_on_rank=self.file_rank)
        self.trainer.add_event_handler(events, Checkpoint(self._objects(), saver, save_on_rank=self.file_rank))
        if not self.is_zero:
            self.trainer.add_event_handler(events, self._save_flat)

    def _objects(self) -> dict[str, Any]:
        return {**self.handlers, "model": self.model, "optimizer": self.optimizer}

    def _save_flat(self) -> None:
        dcp.save(self._flat_state(), checkpoint_id=self.folder / "flat")

    def _flat_state(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self.model, self.optimizer, options=_OPTIONS)
        stage = 0 if self.parallel.is_first else 1
        handlers = {name: handler.state_dict() for name, handler in self.handlers.items()}
        return {"model": model, "optimizer": optimizer, f"handlers of stage {stage}": handlers}

    def load(self) -> None:
        """Take up what a job in another process saved in files of its own."""
        (path,) = (self.folder / str(self.file_rank)).iterdir()
        Checkpoint.load_objects(self._objects(), torch.load(path, weights_only=True))

    def load_flat(self) -> None:
        """Take it up from what torch.distributed.checkpoint saved."""
        state = self._flat_state()
        dcp.load(state, checkpoint_id=self.folder / "flat")
        set_state_dict(
            self.model,
            self.optimizer,
            model_state_dict=state.pop("model"),
            optim_state_dict=state.pop("optimizer"),
            options=_OPTIONS,
        )
        (states,) = state.values()
        for name, handler in self.handlers.items():
            handler.load_state_dict(states[name])

    def run(self) -> Outcome:
        """Train to the end; return what this rank has of the result."""
        self.trainer.run(make_batches(BATCHES), max_epochs=EPOCHS)
        self.logger.close()
        weights = {name.removeprefix("module."): tensor for name, tensor in self.model.state_dict().items()}
        state = self.optimizer.optim.state if self.is_zero else self.optimizer.state
        momenta = {
            name: state[parameter]["momentum_buffer"]
            for name, parameter in self.network.named_parameters()
            if parameter in state
        }
        whole = self.parallel.whole
        norms, factors = (list(each) for each in zip(*self.clipped, strict=True))
        return Outcome(whole(weights), whole(momenta), norms, factors, self.lrs)
