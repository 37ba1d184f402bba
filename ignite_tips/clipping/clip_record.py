"""How often a clipper clipped, for a report."""

from collections import deque
from math import inf
from statistics import median

from torch import Tensor

from ignite_tips.core.findings import Finding, HandlerReport, counted

__all__ = ["ClipRecord"]

_KEPT = 1_000  # updates; on a GPU they take 1 MiB
_ENOUGH = 20  # updates from which "always" and "never" mean something
_FAR = 10  # times: how far all norms are from the threshold where it is very probably not what was meant
_EQUAL = 1 + 1e-3  # times: norms within this factor of each other were clipped to one value
_MANY = 0.1  # of the updates: skips that one bad batch now and then does not explain


class ClipRecord:
    """The norms and factors of the last updates, as they are: what is on a device is read only for a report."""

    def __init__(self) -> None:
        self._kept: deque[tuple[Tensor | float, Tensor | float]] = deque(maxlen=_KEPT)
        self._made = 0
        self._skipped_before = 0

    def start_run(self, skipped: int) -> None:
        """Forget all updates; ``skipped`` is how many the clipper has skipped so far."""
        self._kept.clear()
        self._made, self._skipped_before = 0, skipped

    def keep(self, norm: Tensor | float, factor: Tensor | float) -> None:
        """Take one update."""
        self._made += 1
        self._kept.append((norm, factor))

    def report(self, name: str, settings: str, limit: float, skipped: int) -> HandlerReport:
        """Return how many updates were clipped, and what is very probably wrong with that.

        Args:
            name: the clipper and its optimizer.
            settings: its threshold, as text.
            limit: the norm above which it clips; infinite if it only measures, or if the norm does not decide.
            skipped: how many updates it has skipped so far, which are not kept.
        """
        skipped -= self._skipped_before
        norms = [float(norm) for norm, _ in self._kept]
        clipped = sum(float(factor) < 1 for _, factor in self._kept)
        last = "the last " if self._made > len(norms) else ""
        facts = {"clipped": f"{clipped} of {last}{counted(len(norms), 'update')}"} if norms else {}
        facts |= {"skipped": f"{skipped} of {counted(skipped + self._made, 'update')}"} if skipped else {}
        found = [_describe_skips(name, skipped, self._made), _describe_norms(name, settings, limit, norms, clipped)]
        return HandlerReport(facts=facts, findings=[finding for finding in found if finding is not None])


def _describe_skips(name: str, skipped: int, made: int) -> Finding | None:
    if skipped + made < _ENOUGH or skipped < _MANY * (skipped + made):
        return None
    text = (
        f"{name} skipped {skipped} of {skipped + made} updates because a gradient was not finite; lower the learning "
        'rate, or look for the cause with on_nonfinite="raise"'
    )
    return Finding("skipped updates", text)


def _describe_norms(name: str, settings: str, limit: float, norms: list[float], clipped: int) -> Finding | None:
    count = len(norms)
    if count > 1 and not any(norms):
        text = (
            f"{name} found gradients of 0 in each of {count} updates; look for a detach(), a loss that does not depend "
            "on the parameters, or activations that are all cut off"
        )
        return Finding("zero gradients", text)
    if count < _ENOUGH or limit == inf:
        return None
    if clipped == count and min(norms) > _FAR * limit:
        text = (
            f"{name} clipped each of {count} updates, because {settings} is far below their smallest norm, "
            f"{min(norms):.3g}; raise it to about the median norm, {median(norms):.3g}"
        )
        return Finding("always clips", text)
    if max(norms) * _FAR < limit and max(norms) < _EQUAL * median(norms):
        text = (
            f"{name} clipped none of {count} updates, because most of them had a norm of {max(norms):.3g} already: it "
            "seems that other code clips them before; clip in one place"
        )
        return Finding("clipped before", text)
    if max(norms) * _FAR < limit:  # NaN is not
        text = (
            f"{name} clipped none of {count} updates, because {settings} is far above their largest norm, "
            f"{max(norms):.3g}; lower it to about that norm, or remove the clipper"
        )
        return Finding("never clips", text)
    return None
