"""GradScaler with real float16 overflows, from an initial scale that is far too large."""

from typing import Any

import pytest
from torch.nn.utils import clip_grad_norm_

from ignite_tips import GradientNormClipper
from tests.gpu import DEVICE, needs_gpu
from tests.ignite_tips.clipping.support import CLIPPERS, KINDS, Training, adamw, make_batches, same, sgd

pytestmark = [pytest.mark.gpu, needs_gpu]
BATCHES = 24


def fp16(make_optimizer: Any, kind: str) -> Training:
    training = Training(make_optimizer, device=DEVICE, precision="fp16", **KINDS[kind])
    training.scaler.load_state_dict(training.scaler.state_dict() | {"scale": 2.0**24})
    return training


@pytest.mark.parametrize("on_nonfinite", ["raise", "skip", "propagate"])
@pytest.mark.parametrize("make_optimizer", [sgd, adamw])
@pytest.mark.parametrize("kind", KINDS)
def test_grad_scaler_skips_overflows_without_an_error(kind: str, make_optimizer: Any, on_nonfinite: str) -> None:
    """Some updates overflow and are skipped; the others equal the hand-written loop's, to 1e-5 if fused.

    torch's fused SGD keeps uninitialized momentum if its first update is skipped, so by hand it is not fused.
    """
    by_hand = "foreach" if kind == "fused" and make_optimizer is sgd else kind
    expected, training = fp16(make_optimizer, by_hand), fp16(make_optimizer, kind)
    norms = expected.by_hand(lambda model: clip_grad_norm_(model.parameters(), 0.3).isfinite(), make_batches(BATCHES))
    made = int(sum(norms))
    assert 0 < made < BATCHES
    GradientNormClipper(training.optimizer, 0.3, on_nonfinite=on_nonfinite).attach(trainer := training.trainer())
    state = trainer.run(make_batches(BATCHES))
    assert state.optimizer_step == made
    assert training.scaler.get_scale() == expected.scaler.get_scale()
    assert same(training, expected, rtol=1e-5 if kind == "fused" else 0)


@pytest.mark.parametrize("clipper", CLIPPERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_clipper_sees_only_updates_that_are_made(kind: str, clipper: str) -> None:
    """An overflow never reaches a clipper: all modes train equally, and count the same updates."""
    ended = []
    for on_nonfinite in ("raise", "skip", "propagate"):
        training = fp16(adamw, kind)
        CLIPPERS[clipper](training.optimizer, on_nonfinite=on_nonfinite).attach(trainer := training.trainer())
        state = trainer.run(make_batches(BATCHES))
        assert 0 < state.optimizer_step < BATCHES
        assert state.metrics["skipped_steps"] == 0
        ended.append(training)
    assert same(ended[0], ended[1])
    assert same(ended[0], ended[2])
