"""Notice that no gradient reaches parameters after they were unfrozen."""

from ignite.engine import State
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ignite_tips.core.findings import first_few
from ignite_tips.freezing.frozen_parameters import FreezableParameters
from ignite_tips.parameters.selection import named_parameters
from ignite_tips.parameters.sharding import lay_out_shards

__all__ = ["UnfrozenWatch"]


class UnfrozenWatch:
    """Waits for the first gradient of each trainable parameter of a model of which a part was unfrozen.

    Hooks on the parameters tell; each is removed at the end of an iteration in which it was called. ``fully_shard``
    sets gradients past such hooks, so its models are not watched.

    Args:
        state: the trainer's, running.
        model: bare or wrapped.
        part: what was unfrozen.
    """

    def __init__(self, state: State, model: nn.Module, part: FreezableParameters) -> None:
        self._since = state.iteration
        self._arrived: set[str] = set()
        is_sharded = lay_out_shards(model)
        trainable = {} if is_sharded else {n: each for n, each in named_parameters(model).items() if each.requires_grad}
        self._names = [name for name in part.names if name in trainable]
        self._handles = {name: self._watch(name, parameter) for name, parameter in trainable.items()}
        self._was_due = False

    def end_iteration(self, state: State) -> str | None:
        """Return once, after an epoch, what is wrong if none of the parameters has had a gradient."""
        for name in self._arrived & self._handles.keys():
            self._handles.pop(name).remove()
        if self._was_due or not self._is_due(state):
            return None
        self._was_due = True
        return None if self._arrived.intersection(self._names) else self.describe(state)

    def describe(self, state: State) -> str | None:
        """Return which parameters have had no gradient in an epoch or longer, and what to do about it.

        Return None if there are none, or if no other parameter has had one.
        """
        silent = [name for name in self._names if name not in self._arrived]
        if not silent or not self._arrived or not self._is_due(state):
            return None
        it = "it" if len(silent) == 1 else "them"
        return (
            f"unfroze {first_few(silent)} after iteration {self._since}, but no gradient has reached {it} in an epoch, "
            "only other parameters; look for torch.no_grad() or detach() in the forward pass"
        )

    def stop(self) -> None:
        """Remove all hooks."""
        while self._handles:
            self._handles.popitem()[1].remove()

    def _watch(self, name: str, parameter: nn.Parameter) -> RemovableHandle:
        arrived = self._arrived

        def arrive(parameter: Tensor) -> None:
            if parameter.grad is not None:  # compiled code calls this without a gradient, too
                arrived.add(name)

        handle: RemovableHandle = parameter.register_post_accumulate_grad_hook(arrive)
        return handle

    def _is_due(self, state: State) -> bool:
        return state.epoch_length is not None and state.iteration - self._since >= state.epoch_length
