"""Unfreeze a model from its head down, stage by stage."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from ignite.engine import Engine, Events, State
from torch import nn
from torch.optim import Optimizer

from ignite_tips._checks import check_instance, check_integer, check_keys, check_names
from ignite_tips.freezing.freezing_handler import FreezingHandler, names_on
from ignite_tips.freezing.frozen_parameters import FreezableParameters
from ignite_tips.parameters.selection import ParameterNames
from ignite_tips.ranks import as_process_group

__all__ = ["GradualUnfreezer"]

_STATE_KEYS = ("epoch", "every", "stages")


class GradualUnfreezer(FreezingHandler):
    """Train the first stage alone, then one more stage every few epochs, until all train.

    Acts at EPOCH_STARTED, so that a stage trains for whole epochs: in epoch e the first 1 + ⌊(e − 1) / every⌋ stages
    train. Freezing works as in ``ParameterFreezer``, with the same warning if no gradient reaches a stage. Parameters
    in no stage are left alone.

    ``engine.state.metrics["trainable_fraction"]`` is the fraction of the model's parameter values that train, 0 to 1.

    Args:
        model: the model that the trainer calls: bare, or wrapped by DistributedDataParallel, DataParallel, fully_shard
            or torch.compile.
        stages: patterns, or lists of patterns, in the order in which they start to train: the head first.
        optimizer: checked to have every parameter of the stages; those that you froze before stay frozen and need no
            group.
        pattern_group: the ranks that have the model's other parameters, such as the stages of a pipeline: a DeviceMesh
            of one dimension, as ``mesh["pp"]``, or a process group. A pattern then has to match on one of them only,
            and ``trainable_fraction`` is that of all. Make the handler on each of them.

    Raises:
        TypeError: if an argument has the wrong type, or as ``ParameterFreezer`` in a run's first forward pass.
        ValueError: if there is no stage, a pattern matches no parameter, two stages share a parameter, or the
            optimizer has no group for one.

    State saved: the epoch and the schedule. A resume does not need it, because the epoch says what is frozen; it is
    there to refuse a resume with another schedule.

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
        pattern_group: Any = None,
    ) -> None:
        check_instance("stages", stages, (list, tuple), "a list of patterns or of lists of patterns")
        if not stages:
            raise ValueError("stages must have at least one stage, got none")
        ranks = as_process_group("pattern_group", pattern_group)
        names = ParameterNames(model, names_on(ranks, model))
        parts = [FreezableParameters(names, stage, "each of stages") for stage in stages]
        _check_disjoint(parts)
        super().__init__(model, parts, optimizer, ranks)
        self._check_groups()
        self._every = 0

    def attach(self, trainer: Engine, every: int = 1) -> Self:
        """Unfreeze one more stage every ``every`` epochs.

        Args:
            trainer: the engine that makes the updates.
            every: epochs from one stage to the next, ≥ 1.

        Raises:
            TypeError: if an argument has the wrong type, or the model is wrapped in FullyShardedDataParallel.
            ValueError: if ``every`` is below 1, or another attached handler freezes one of the parameters.
            RuntimeError: if a DistributedDataParallel wrapper has an option that does not allow freezing.
        """
        check_instance("trainer", trainer, Engine, "an ignite Engine")
        every = check_integer("every", every, ge=1)
        with self._attachment.renew(self):
            self._register(trainer, Events.EPOCH_STARTED)
            self._attachment.add_handler(trainer, Events.EPOCH_STARTED, self._open_stages)
        self._every = every
        return self

    def state_dict(self) -> dict[str, Any]:
        """Return the schedule and the epoch; after ``load_state_dict`` the loaded ones, until the run starts."""
        if self._loaded is not None:
            return dict(self._loaded)
        engine = self._engine() if self._engine is not None else None
        return {
            "epoch": 0 if engine is None else engine.state.epoch,
            "every": self._every,
            "stages": [list(stage.names) for stage in self._parts],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Keep a saved state, and compare it with the schedule when the run starts.

        Raises:
            TypeError, ValueError: if it is not a GradualUnfreezer's state, or is one of other stages.
        """
        state = check_keys("GradualUnfreezer state", state_dict, _STATE_KEYS)
        check_integer("the state's epoch", state["epoch"], ge=0)
        check_integer("the state's every", state["every"], ge=0)  # 0 before the first attach
        check_instance("the state's stages", state["stages"], (list, tuple), "a list of lists of names")
        stages = [list(check_names("the state's stages", names)) for names in state["stages"]]
        for index, stage in enumerate(self._parts):
            if index >= len(stages) or stages[index] != list(stage.names):
                raise ValueError(
                    f"GradualUnfreezer state must have {', '.join(stage.names) or 'none'} as stage {index}, got "
                    f"{', '.join(stages[index]) if index < len(stages) else 'none'}; build it with the stages of the "
                    "run that saved it"
                )
        if len(stages) > len(self._parts):
            raise ValueError(
                f"GradualUnfreezer state must have {len(self._parts)} stages, got {len(stages)}; build it with the "
                "stages of the run that saved it"
            )
        self._loaded = dict(state)

    def _planned(self) -> dict[str, str]:
        return {"stages": f"{len(self._parts)}, one more every {self._every} epochs"}

    def _to_unfreeze(self) -> list[FreezableParameters]:
        return list(self._parts)

    def _frozen_at_end(self, plan: State) -> list[FreezableParameters]:
        if plan.max_epochs is None:
            return []
        frozen = self._frozen_in(plan.max_epochs)
        return [part for part, is_frozen in zip(self._parts, frozen, strict=True) if is_frozen]

    def _frozen_at_start(self, engine: Engine, loaded: Mapping[str, Any] | None) -> list[bool]:
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
        return self._frozen_in(engine.state.epoch)

    def _open_stages(self, engine: Engine) -> None:
        self._set_frozen(engine, self._frozen_in(engine.state.epoch))

    def _frozen_in(self, epoch: int) -> list[bool]:
        opened = 1 + (max(epoch, 1) - 1) // self._every
        return [index >= opened for index in range(len(self._parts))]


def _check_disjoint(stages: Sequence[FreezableParameters]) -> None:
    owner: dict[str, int] = {}
    for index, stage in enumerate(stages):
        for name in stage.names:
            if name in owner:
                raise ValueError(f"parameter {name!r} must be in one stage, got it in {owner[name]} and {index}")
            owner[name] = index
