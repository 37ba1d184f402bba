"""What a handler of updates may find missing after the first epoch, the likely cause and the remedy."""

from collections.abc import Callable

from ignite.engine import Engine, Events
from torch.optim import Optimizer

from ignite_tips._warnings import warn_user
from ignite_tips.core.events import completed_updates, was_stepped, was_stepped_elsewhere
from ignite_tips.core.findings import counted
from ignite_tips.core.ignite_internals import max_iters
from ignite_tips.core.wiring import Attachment

__all__ = ["describe_no_gradients", "describe_no_update", "never_stepped", "warn_after_first_epoch"]


def warn_after_first_epoch(attachment: Attachment, engine: Engine, describe: Callable[[Engine], str | None]) -> None:
    """After the first epoch of each new run, warn with the sentence that ``describe(engine)`` returns, if any.

    It is asked once all handlers of EPOCH_COMPLETED are done: one of them may make the updates, as in reinforcement
    learning. Later epochs are not checked: a pause may be intended, for example with two optimizers that train in turn.
    """
    check = _FirstEpochCheck(describe)
    attachment.add_handler(engine, Events.STARTED, check.start)
    attachment.add_handler(engine, Events.EPOCH_COMPLETED, check.end_epoch)
    attachment.add_handler(engine, Events.EPOCH_STARTED, check.ask)
    attachment.add_handler(engine, Events.COMPLETED, check.end_run)


def never_stepped(engine: Engine, optimizer: Optimizer) -> bool:
    """Whether ``optimizer`` has parameters to train, but nothing has called its ``step()`` in the run of ``engine``."""
    return _has_parameters_to_train(optimizer) and not was_stepped(engine, optimizer)


def describe_no_update(engine: Engine, optimizer: Optimizer, act: str, consequence: str = "") -> str | None:
    """Return that ``optimizer`` was never stepped in the run of ``engine``, why, and what to do; None if it was.

    Args:
        engine: the one that the handler is attached to.
        optimizer: the handler's.
        act: what the handler does to the optimizer, as an imperative.
        consequence: what else to say before the remedy.
    """
    if not never_stepped(engine, optimizer):
        return None
    what = f"{type(optimizer).__name__} in {counted(engine.state.iteration, 'iteration')}{consequence}"
    if was_stepped_elsewhere(engine, optimizer):
        return (
            f"{what}, because its updates are made outside the run of the engine that the handler is attached to; "
            "attach it to the engine whose update function calls step()"
        )
    return (
        f"{what}; if the trainer steps another optimizer, {act} that; if another engine makes the updates, attach the "
        "handler to that engine"
    )


def describe_no_gradients(engine: Engine, optimizer: Optimizer, *, had_gradients: bool) -> str | None:
    """Return what a clipper is missing and what to do, or None if all is well.

    Args:
        engine: the trainer.
        optimizer: the clipper's.
        had_gradients: whether there was a gradient in any update so far.
    """
    sentence = describe_no_update(engine, optimizer, "clip")
    if sentence is not None:
        return f"no update of its {sentence}"
    if had_gradients or completed_updates(engine, optimizer) == 0 or not _has_parameters_to_train(optimizer):
        return None
    return (
        f"no gradient for its {type(optimizer).__name__} in {counted(engine.state.iteration, 'iteration')}; if its "
        "parameters are no longer the model's, create it from the model's parameters, after fully_shard, which "
        "replaces them"
    )


class _FirstEpochCheck:
    def __init__(self, describe: Callable[[Engine], str | None]) -> None:
        self._describe = describe
        self._is_first = False
        self._is_due = False

    def start(self, engine: Engine) -> None:
        self._is_first, self._is_due = engine.state.iteration == 0, False

    def end_epoch(self, engine: Engine) -> None:
        self._is_due, self._is_first = self._is_first, False

    def end_run(self, engine: Engine) -> None:
        self._is_due |= self._is_first and engine.state.iteration == max_iters(engine.state)  # within the first epoch
        self.ask(engine)

    def ask(self, engine: Engine) -> None:
        is_due, self._is_due = self._is_due, False
        sentence = self._describe(engine) if is_due else None
        if sentence is not None:
            warn_user(sentence)


def _has_parameters_to_train(optimizer: Optimizer) -> bool:
    return any(parameter.requires_grad for group in optimizer.param_groups for parameter in group["params"])
