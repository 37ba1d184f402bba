"""Unfreeze a model from its head down, one stage after another."""

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from ignite.engine import Engine, Events
from torch import nn
from torch.optim import Optimizer

from ignite_tips._checks import check_instance, check_integer, check_keys, check_names
from ignite_tips.core.conflicts import add_checked_role
from ignite_tips.core.wiring import Attachment, annotate
from ignite_tips.freezing.frozen_parameters import FreezableParameters, freezing_role, rebuild_ddp_reducers
from ignite_tips.parameters.selection import check_belongs, trainable_fraction

__all__ = ["GradualUnfreezer"]

_STATE_KEYS = ("epoch", "every", "stages")


class GradualUnfreezer:
    """Train the first stage alone, and one stage more every few epochs, until all train.

    Acts at EPOCH_STARTED, between two updates: in epoch e the first 1 + ⌊(e − 1) / every⌋ stages train. What is frozen
    stays as it is as with ``ParameterFreezer``, and a DistributedDataParallel wrapper follows in the same way.
    Parameters in no stage are left alone.

    ``engine.state.metrics["trainable_fraction"]`` is the share of the model's parameter values that train, 0 to 1.

    Args:
        model: bare, or wrapped by DistributedDataParallel, DataParallel, fully_shard or torch.compile.
        stages: patterns, or lists of patterns, in the order in which they start to train: the head first.
        optimizer: checked to have every parameter of the stages.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if there is no stage, a pattern matches no parameter, two stages have the same one, or the
            optimizer has no group for one.

    State saved: which epoch it is, and the schedule, to notice a resume with another one.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 1))
        >>> trainer = Engine(lambda engine, batch: None)
        >>> unfreezer = GradualUnfreezer(net, ["2.*", "1.*", "0.*"])
        >>> _ = unfreezer.attach(trainer)
        >>> _ = trainer.run(range(1), max_epochs=2)
        >>> unfreezer.frozen
        ('0.weight', '0.bias')

    References:
        Howard and Ruder 2018, "Universal Language Model Fine-tuning for Text Classification", arXiv 1801.06146,
        section 3.3, gradual unfreezing.
    """

    def __init__(
        self,
        model: nn.Module,
        stages: Sequence[str | Iterable[str]],
        *,
        optimizer: Optimizer | None = None,
    ) -> None:
        check_instance("stages", stages, (list, tuple), "a list of patterns or of lists of patterns")
        if not stages:
            raise ValueError("stages must have at least one stage, got none")
        self._stages = [FreezableParameters(model, stage, "each of stages") for stage in stages]
        _check_disjoint(self._stages)
        if optimizer is not None:
            check_belongs(optimizer, model)
            for part in self._stages:
                part.check_optimizer(optimizer)
        self._model = model
        self._optimizer = optimizer
        self._attachment = Attachment()
        self._engine: weakref.ref[Engine] | None = None
        self._every = 0
        self._loaded: Mapping[str, Any] | None = None
        self._is_started = False

    @property
    def frozen(self) -> tuple[str, ...]:
        """The names of the parameters that this handler keeps frozen now, stage after stage."""
        return tuple(name for stage in self._stages if stage.is_frozen for name in stage.names)

    def attach(self, trainer: Engine, every: int = 1) -> Self:
        """Let one stage more train every ``every`` epochs.

        Args:
            trainer: the engine that makes the updates.
            every: epochs from stage to stage, ≥ 1.

        Raises:
            TypeError: if an argument is of the wrong type, or the model wrapped in FullyShardedDataParallel.
            ValueError: if ``every`` is below 1, or another attached handler freezes one of the parameters.
            RuntimeError: if a wrapper has an option that cannot follow a freeze.
        """
        check_instance("trainer", trainer, Engine, "an ignite Engine")
        check_integer("every", every, ge=1)
        with self._attachment.renew():
            role = freezing_role(self, self._stages, Events.EPOCH_STARTED)
            add_checked_role(self._attachment, trainer, role)
            self._attachment.add_undo(self._put_back)
            self._attachment.add_handler(trainer, Events.STARTED, self._start)
            self._attachment.add_handler(trainer, Events.EPOCH_STARTED, self._open_stages)
        self._engine = weakref.ref(trainer)
        self._every = every
        return self

    def detach(self) -> None:
        """Unfreeze, and let go of the trainer. Under DDP every rank must call it."""
        self._attachment.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return the schedule, and the epoch of the trainer; what was loaded, until the trainer starts from it."""
        if self._loaded is not None:
            return dict(self._loaded)
        engine = self._engine() if self._engine is not None else None
        return {
            "epoch": 0 if engine is None else engine.state.epoch,
            "every": self._every,
            "stages": [list(stage.names) for stage in self._stages],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take a saved state; what trains is a matter of the epoch, so the trainer's state restores it.

        Raises:
            TypeError, ValueError: if it is no state of such a handler, or one of other stages.
        """
        state = check_keys("GradualUnfreezer state", state_dict, _STATE_KEYS)
        check_integer("the state's epoch", state["epoch"], ge=0)
        check_integer("the state's every", state["every"], ge=0)  # 0 before the first attach
        check_instance("the state's stages", state["stages"], (list, tuple), "a list of lists of names")
        stages = [list(check_names("the state's stages", names)) for names in state["stages"]]
        for index, stage in enumerate(self._stages):
            if index >= len(stages) or stages[index] != list(stage.names):
                raise ValueError(
                    f"GradualUnfreezer state must have {', '.join(stage.names)} as stage {index}, got "
                    f"{', '.join(stages[index]) if index < len(stages) else 'none'}; build it with the stages of the "
                    "run that saved it"
                )
        if len(stages) > len(self._stages):
            raise ValueError(
                f"GradualUnfreezer state must have {len(self._stages)} stages, got {len(stages)}; build it with the "
                "stages of the run that saved it"
            )
        self._loaded = dict(state)

    def _start(self, engine: Engine) -> None:
        loaded, self._loaded = self._loaded, None
        if loaded is not None and loaded["every"] != self._every:
            raise RuntimeError(
                f"GradualUnfreezer state is of a run with every={loaded['every']}, "
                f"but attached is every={self._every}; attach as in the run that saved it"
            )
        if loaded is not None and engine.state.iteration == 0 and loaded["epoch"] > 0:
            raise RuntimeError(
                f"GradualUnfreezer state is of epoch {loaded['epoch']}, but the trainer starts a new run; "
                "load the states that were saved together, or none for a new run"
            )
        self._is_started = True
        self._open_stages(engine, is_resumed=engine.state.iteration > 0)
        engine.state.metrics["trainable_fraction"] = trainable_fraction(self._model)

    def _open_stages(self, engine: Engine, *, is_resumed: bool = False) -> None:
        if not self._is_started:
            raise RuntimeError("GradualUnfreezer must be attached before the run starts; attach, then call run()")
        opened = 1 + (max(engine.state.epoch, 1) - 1) // self._every
        changed = [stage for index, stage in enumerate(self._stages) if stage.set_frozen(index >= opened)]
        if not changed:
            return
        rebuild_ddp_reducers(self._stages)
        engine.state.metrics["trainable_fraction"] = share = trainable_fraction(self._model)
        if is_resumed:  # announced in the run that is resumed
            return
        kind = "freeze" if changed[-1].is_frozen else "unfreeze"
        patterns = ", ".join(pattern for stage in changed for pattern in stage.patterns)
        annotate(engine, kind, f"{kind} {patterns}: {share:.1%} of the parameters train")

    def _put_back(self) -> None:
        self._is_started = False
        if any([stage.set_frozen(False) for stage in self._stages]):  # noqa: C419  # all of them, not up to the first
            rebuild_ddp_reducers(self._stages)


def _check_disjoint(stages: Sequence[FreezableParameters]) -> None:
    owner: dict[str, int] = {}
    for index, stage in enumerate(stages):
        for name in stage.names:
            if name in owner:
                raise ValueError(f"parameter {name!r} must be in one stage, got it in {owner[name]} and {index}")
            owner[name] = index
