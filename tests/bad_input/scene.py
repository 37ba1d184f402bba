"""The objects of the wrong calls, and everything that a refused call must leave unchanged."""

import os
import re
from collections.abc import Callable
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, EventEnum, Events, EventsList, create_supervised_evaluator, create_supervised_trainer
from ignite.handlers import ProgressBar, TensorboardLogger
from ignite.metrics import Loss
from torch import nn
from torch.optim import LBFGS, SGD, Adam
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    LambdaLR,
    LinearLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

import ignite_tips
from tests.settings import seeded

__all__ = ["Scene"]


class Own(EventEnum):
    """A user's own events, which no engine knows."""

    SOMETHING = "something"


class Silent:
    """An object without a repr."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


_NAMES: dict[str, Any] = {name: getattr(ignite_tips, name) for name in ignite_tips.__all__}
_NAMES |= {thing.__name__: thing for thing in (Engine, Events, EventsList, ProgressBar, LBFGS, SGD, Adam, Own, Silent)}
_NAMES |= {thing.__name__: thing for thing in (ChainedScheduler, LambdaLR, LinearLR, OneCycleLR, SequentialLR, StepLR)}
_NAMES |= {"ReduceLROnPlateau": ReduceLROnPlateau, "nan": nan, "inf": inf, "np": np, "torch": torch, "nn": nn}


class Scene:
    """A small training job whose parts have the names that the calls use; costly ones are created when needed."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(seeded())
        self._folder = folder
        model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
        other = nn.Linear(4, 2)
        sgd = SGD(model.parameters(), lr=0.1, momentum=0.9)
        trainer = create_supervised_trainer(model, sgd, nn.MSELoss())
        evaluator = create_supervised_evaluator(model, {"loss": Loss(nn.MSELoss())})
        data, validation = ([(torch.randn(4, 4), torch.randn(4, 2)) for _ in range(2)] for _ in range(2))
        self.names: dict[str, Any] = _NAMES | {
            "model": model,
            "other": other,
            "sgd": sgd,
            "other_sgd": SGD(other.parameters(), lr=0.1),
            "trainer": trainer,
            "evaluator": evaluator,
            "data": data,
            "validation": validation,
            "folder": folder,
            "environ": self._environ,
            "inside": lambda act: trainer.add_event_handler(Events.ITERATION_STARTED, act),
            "validate": lambda: trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run(validation)),
            "spoil": lambda: trainer.add_event_handler(
                Events.ITERATION_STARTED, lambda: model[0].weight.data.fill_(nan)
            ),
        }
        self._variables = dict(os.environ)
        self._makers: dict[str, Callable[[], Any]] = {
            "lbfgs": lambda: LBFGS(model.parameters()),
            "empty": lambda: SGD([{"params": []}], lr=0.1),
            "twins": lambda: SGD([{"params": [p], "name": "a"} for p in other.parameters()], lr=0.1),
            "steps": lambda: StepLR(sgd, 2),
            "plateau": lambda: ReduceLROnPlateau(sgd),
            "stepper": lambda: ignite_tips.SchedulerStepper(StepLR(sgd, 2)),
            "freezer": lambda: ignite_tips.ParameterFreezer(model, "0.*"),
            "unfreezer": lambda: ignite_tips.GradualUnfreezer(model, ["3.*", "0.*"]),
            "clipper": lambda: ignite_tips.GradientNormClipper(sgd, 1.0),
            "tb_logger": self._tb_logger,
            "summary": lambda: ignite_tips.summarize_model(model, input_size=(2, 4)),
        }

    def make(self, code: str) -> None:
        """Create everything that ``code`` names."""
        for word in set(re.findall(r"\w+", code)) & self._makers.keys() - self.names.keys():
            self.names[word] = self._makers[word]()

    def run(self, code: str) -> None:
        """Run statements."""
        exec(code, self.names)

    def _environ(self, **variables: str) -> None:
        os.environ.update(variables)

    def traces(self) -> dict[str, Any]:
        """Return everything that a handler could have left on the job's parts."""
        model, optimizers = self.names["model"], [self.names[name] for name in ("sgd", "other_sgd")]
        engines = [self.names["trainer"], self.names["evaluator"]]
        return {
            "handlers": [
                {str(event): [entry[0] for entry in entries] for event, entries in e._event_handlers.items() if entries}
                for e in engines
            ],
            "engines": [engine.state_dict() for engine in engines],
            "step hooks": [
                [list(hooks) for hooks in (o._optimizer_step_pre_hooks, o._optimizer_step_post_hooks)]
                for o in optimizers
            ],
            "options": [[{**group, "params": len(group["params"])} for group in o.param_groups] for o in optimizers],
            "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
            "weights": [tensor.tolist() for tensor in model.state_dict().values()],
            "training": [module.training for module in model.modules()],
            "module hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
            "states": [str(thing.state_dict()) for thing in self.names.values() if self._has_state(thing)],
            "files": sorted((str(path), path.stat().st_size) for path in self._folder.rglob("*")),
        }

    @staticmethod
    def _has_state(thing: Any) -> bool:
        return hasattr(thing, "state_dict") and not isinstance(thing, type | nn.Module)

    def _tb_logger(self) -> TensorboardLogger:
        tb_logger = TensorboardLogger(log_dir=str(self._folder / "logs"))
        tb_logger.writer.flush()
        return tb_logger

    def close(self) -> None:
        """Close what was opened, and restore the environment."""
        for name in os.environ.keys() - self._variables.keys():
            del os.environ[name]
        if "tb_logger" in self.names:
            self.names["tb_logger"].close()
        if "group" in self.names:
            self.names["group"].__exit__(None, None, None)
