"""What a checkpoint saves, and what it should."""

from collections.abc import Mapping
from typing import Any

from ignite.engine import Engine
from ignite.handlers import Checkpoint
from ignite.handlers.param_scheduler import ParamScheduler
from torch import nn

from ignite_tips.core.findings import Finding
from ignite_tips.core.handler import Handler
from ignite_tips.core.roles import Role
from ignite_tips.core.wiring import roles_of
from ignite_tips.parameters.selection import unwrap_model
from ignite_tips.report.events import registered

__all__ = ["describe_unsaved", "find_to_save", "find_unsaved", "name_of", "should_be_saved"]


def find_to_save(trainer: Engine) -> Mapping[str, Any] | None:
    """Return the ``to_save`` of the trainer's first Checkpoint that saves the trainer itself; None if there is none."""
    for _, entries in registered(trainer):
        for function, _ in entries:
            if isinstance(function, Checkpoint) and trainer in function.to_save.values():
                found: Mapping[str, Any] = function.to_save
                return found
    return None


def should_be_saved(trainer: Engine, models: list[nn.Module], optimizers: list[Any]) -> list[Any]:
    """Return the objects that a run resumes from, as far as they are known."""
    handlers = [role.handler() for role in roles_of(Role, trainer)]
    schedulers = [function for _, entries in registered(trainer) for function, _ in entries]
    stateful = [handler for handler in handlers if hasattr(handler, "state_dict")]
    stateful += [function for function in schedulers if isinstance(function, ParamScheduler)]
    unique = {id(each): each for each in [trainer, *models, *optimizers, *stateful]}
    return list(unique.values())


def find_unsaved(to_save: Mapping[str, Any], wanted: list[Any]) -> list[str]:
    """Return what of ``wanted`` is missing from ``to_save``."""
    saved = {id(_bare(value)) for value in to_save.values()}
    return [name_of(each) for each in wanted if id(_bare(each)) not in saved]


def describe_unsaved(missing: list[str]) -> Finding:
    """Return a finding about what is missing."""
    *others, last = missing
    names = f"{', '.join(others)} and {last}" if others else last
    text = f"to_save lacks {names}, so a resumed run starts without that state; add to to_save what is missing"
    return Finding("not saved", text)


def name_of(saved: Any) -> str:
    """Return the repr of a handler of ours, which says its settings, and the class of anything else."""
    return repr(saved) if isinstance(saved, Handler) else type(saved).__name__


def _bare(value: Any) -> Any:
    return unwrap_model(value) if isinstance(value, nn.Module) else value
