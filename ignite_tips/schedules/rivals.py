"""Ignite's own schedulers, which set an optimizer's rates beside ours."""

from ignite.engine import Engine
from ignite.handlers.param_scheduler import ParamGroupScheduler, ParamScheduler
from torch.optim import Optimizer

__all__ = ["check_no_rival"]


def check_no_rival(engine: Engine, optimizer: Optimizer, owner: str) -> None:
    """Raise where one of Ignite's schedulers sets the optimizer's rates at an event of ``engine``.

    One whose event has a filter is passed over: it may be meant to end before ``owner`` begins.

    Raises:
        ValueError: if there is one.
    """
    for handlers in engine._event_handlers.values():
        for handler, _, _ in handlers:
            for scheduler in _schedulers(handler):
                if scheduler.optimizer is optimizer and scheduler.param_name == "lr":
                    raise ValueError(
                        f"{owner} must be alone in setting the rates of its {type(optimizer).__name__}, but the "
                        f"trainer has Ignite's {type(handler).__name__} too, which sets them anew in every call; "
                        "leave one of the two out, or end it by a filter on its event"
                    )


def _schedulers(handler: object) -> list[ParamScheduler]:
    if isinstance(handler, ParamGroupScheduler):
        return handler.schedulers
    return [handler] if isinstance(handler, ParamScheduler) else []
