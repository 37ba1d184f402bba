"""What all clippers share: non-finite gradients, metrics, sparse and mixed gradients, attachment."""

import math
from collections.abc import Callable

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers import FastaiLRFinder
from torch import nn

from ignite_tips import (
    GradientNormClipper,
)
from ignite_tips.core.events import OptimizerEvents
from ignite_tips.core.wiring import on_annotation
from tests.ignite_tips.clipping.support import (
    CLIPPERS,
    KINDS,
    SIZE,
    Batch,
    Training,
    adamw,
    make_batches,
    poisoned,
    same,
    sgd,
)
from tests.oracles import rounding_of_norm

MODES = {"ordinary": (sgd, KINDS["ordinary"]), "foreach": (adamw, KINDS["foreach"]), "fused": (adamw, KINDS["fused"])}


def without(batches: list[Batch], at: int = 3) -> list[Batch]:
    return [batch for index, batch in enumerate(batches, 1) if index != at]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("clipper", CLIPPERS)
def test_raise_names_parameters_and_update(clipper: str, value: float, mode: str) -> None:
    """With "raise" the error names the parameters and the update; all else is as before it."""
    make_optimizer, options = MODES[mode]
    expected = Training(make_optimizer, **options)
    CLIPPERS[clipper](expected.optimizer).attach(trainer := expected.trainer())
    trainer.run(make_batches()[:2])
    training = Training(make_optimizer, **options)
    CLIPPERS[clipper](training.optimizer, model=training.model).attach(trainer := training.trainer())
    message = r"gradients must be finite, got .*NaN.* in 0.weight.* in update 3 of \w+ \(iteration 3, epoch 1\)"
    with pytest.raises(RuntimeError, match=message):
        trainer.run(poisoned(value))
    assert same(training, expected)
    assert trainer.state.optimizer_step == 2


def test_raise_says_where_names_come_from() -> None:
    """Where it has only places to tell: not with a model, nor with an optimizer that was given names."""
    hint = "; give the clipper model=... to have parameters named"
    for named, has_model in ((False, False), (True, False), (False, True)):
        model = nn.Linear(6, 1)
        optimizer = torch.optim.SGD(model.named_parameters() if named else model.parameters(), lr=0.1)
        trainer = Engine(lambda engine, batch, step=optimizer.step: step())
        trainer.logger.disabled = True
        GradientNormClipper(optimizer, 1.0, model=model if has_model else None).attach(trainer)
        model.bias.grad = torch.full_like(model.bias, math.nan)
        with pytest.raises(RuntimeError, match="got NaN in ") as caught:
            trainer.run([0])
        assert str(caught.value).endswith(hint) is (not named and not has_model)
        assert ("NaN in bias" in str(caught.value)) is (named or has_model)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("clipper", CLIPPERS)
def test_skip_drops_the_update_whole(clipper: str, mode: str) -> None:
    """With "skip" there is no trace of an update: the run equals the run without its batch; it is counted and told."""
    make_optimizer, options = MODES[mode]
    batches = poisoned(math.nan)
    expected = Training(make_optimizer, **options)
    CLIPPERS[clipper](expected.optimizer).attach(trainer := expected.trainer())
    trainer.run(without(batches))
    training = Training(make_optimizer, **options)
    trainer = training.trainer()
    handler = CLIPPERS[clipper](training.optimizer, on_nonfinite="skip").attach(trainer)
    completed, notices = [], []
    trainer.add_event_handler(OptimizerEvents.STEP_COMPLETED, lambda e: completed.append(e.state.iteration))
    on_annotation(trainer, lambda engine, notice: notices.append(notice))
    state = trainer.run(batches)
    assert same(training, expected)
    assert completed == [1, 2, 4, 5, 6]
    assert (state.optimizer_step, state.metrics["skipped_steps"]) == (5, 1)
    assert [(notice.kind, notice.iteration) for notice in notices] == [("skipped_step", 3)]
    assert handler.state_dict()["skipped_steps"] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_propagate_does_as_torch(kind: str) -> None:
    """With "propagate" training uses a NaN as the loop with clip_grad_norm_ does."""
    expected, training = (Training(sgd, **KINDS[kind]) for _ in range(2))
    batches = poisoned(math.nan, at=6)
    expected.by_hand(lambda model: nn.utils.clip_grad_norm_(model.parameters(), 0.3), batches)
    clipper = GradientNormClipper(training.optimizer, 0.3, on_nonfinite="propagate")
    clipper.attach(trainer := training.trainer())
    assert math.isnan(trainer.run(batches).metrics["grad_norm"])
    for one, other in zip(training.tensors(), expected.tensors(), strict=True):
        assert torch.equal(one.isnan(), other.isnan())
        assert one.isnan().all()


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make_optimizer", [sgd, adamw])
def test_grad_scaler_with_and_without_unscale(
    make_optimizer: Callable[..., torch.optim.Optimizer], kind: str, unscale: bool
) -> None:
    """Under GradScaler true gradients are clipped, whether or not the user has unscaled them."""
    expected, training = (Training(make_optimizer, precision="fp16", **KINDS[kind]) for _ in range(2))
    norms = expected.by_hand(lambda model: nn.utils.clip_grad_norm_(model.parameters(), 0.3).item(), make_batches())

    def before_step(training: Training) -> None:
        if unscale:
            training.scaler.unscale_(training.optimizer)

    trainer = training.trainer(before_step)
    GradientNormClipper(training.optimizer, 0.3).attach(trainer)
    state = trainer.run(make_batches())
    assert same(training, expected)
    assert state.metrics["grad_norm"] == pytest.approx(norms[-1], rel=2 * rounding_of_norm(SIZE))


@pytest.mark.parametrize("clipper", CLIPPERS)
@pytest.mark.parametrize("kind", KINDS)
def test_any_scale_is_taken_off_as_by_unscale(kind: str, clipper: str) -> None:
    """To the last bit, also one that is no power of two: it is the same whether or not the user unscales."""
    trained = []
    for unscale in (True, False):
        training = Training(adamw, precision="fp16", **KINDS[kind])
        training.scaler = torch.amp.GradScaler("cpu", init_scale=77.7)
        trainer = training.trainer(lambda one, unscale=unscale: one.scaler.unscale_(one.optimizer) if unscale else None)
        CLIPPERS[clipper](training.optimizer).attach(trainer)
        trainer.run(make_batches())
        trained.append(training)
    assert same(*trained)


@pytest.mark.parametrize("kind", KINDS)
def test_what_grad_scaler_skips_is_no_error(kind: str) -> None:
    """An update that GradScaler skips for an overflow is none for the clipper: no error, no count of its own."""
    training = Training(adamw, precision="fp16", **KINDS[kind])
    training.trainer()
    GradientNormClipper(training.optimizer, 0.3).attach(trainer := training.trainer())
    state = trainer.run(poisoned(math.inf, at=1))
    assert (state.optimizer_step, state.metrics["skipped_steps"]) == (5, 0)


@pytest.mark.filterwarnings("ignore:GradientNormClipper found no update")
def test_a_first_update_that_grad_scaler_skips_leaves_no_state() -> None:
    """Fused SGD of torch would keep uninitialised momentum of a first update that overflows; here it keeps none."""
    training = Training(sgd, precision="fp16", fused=True)
    GradientNormClipper(training.optimizer, 0.3).attach(trainer := training.trainer())
    trainer.run(poisoned(math.inf, at=1)[:1])
    assert not training.optimizer.state_dict()["state"]
    assert trainer.state.optimizer_step == 0


def test_metrics_are_numbers_on_the_cpu() -> None:
    """On the CPU the metrics are floats, of the norm before clipping and the factor, also when nothing was clipped."""
    training = Training(sgd)
    GradientNormClipper(training.optimizer, math.inf, tag="net").attach(trainer := training.trainer())
    metrics = trainer.run(make_batches()).metrics
    assert isinstance(metrics["net/grad_norm"], float)
    assert metrics["net/grad_clip_coef"] == 1.0


@pytest.mark.parametrize("frozen", [False, True])
def test_an_optimizer_that_is_never_stepped_is_told_of(frozen: bool, recwarn: pytest.WarningsRecorder) -> None:
    """After the first epoch, once: its clipper never acts. That of an optimizer of frozen parameters may wait."""
    training, other = Training(sgd), Training(sgd)
    other.model.requires_grad_(not frozen)
    trainer = training.trainer()
    CLIPPERS["norm"](other.optimizer, tag="other").attach(trainer)
    CLIPPERS["norm"](training.optimizer).attach(trainer)
    trainer.run(make_batches(), max_epochs=2)
    told = [str(warning.message) for warning in recwarn]
    expected = (
        "GradientNormClipper found no update of its SGD in 8 iterations; if the trainer steps another optimizer, clip "
        "that; if another engine makes the updates, attach the handler to that engine"
    )
    assert told == ([] if frozen else [expected])


def test_metrics_have_no_key_before_an_update() -> None:
    """A run's metrics are the user's own until something happened; then what earlier runs skipped is told at once."""
    training = Training(sgd)
    trainer = training.trainer()
    clipper = GradientNormClipper(training.optimizer, 0.3)
    clipper.load_state_dict({"skipped_steps": 2})
    clipper.attach(trainer)
    seen: list[dict[str, object]] = []
    for event in (Events.STARTED, Events.ITERATION_STARTED(once=1), OptimizerEvents.STEP_COMPLETED):
        trainer.add_event_handler(event, lambda engine: seen.append(dict(engine.state.metrics)))
    trainer.run(make_batches()[:1])
    assert seen[:2] == [{}, {}]
    assert seen[2].keys() == {"grad_norm", "grad_clip_coef", "skipped_steps"}
    assert seen[2]["skipped_steps"] == 2


@pytest.mark.filterwarnings("ignore:Run completed without loss diverging")  # to Ignite a NaN does not diverge
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("clipper", CLIPPERS)
def test_a_search_for_the_learning_rate_ends_and_is_restored(clipper: str, mode: str) -> None:
    """With "raise" a NaN in the LR finder's run ends the search; in a run it is an error again."""
    make_optimizer, options = MODES[mode]
    training = Training(make_optimizer, **options)
    before = [tensor.clone() for tensor in training.tensors()]
    attached = CLIPPERS[clipper](training.optimizer).attach(trainer := training.trainer())
    to_save = {"model": training.model, "optimizer": training.optimizer, "clipper": attached}
    with FastaiLRFinder().attach(trainer, to_save, output_transform=float, diverge_th=math.inf) as searching:
        searching.run(poisoned(math.nan))
        assert trainer.state.iteration == 3
    assert all(map(torch.equal, training.tensors(), before))
    with pytest.raises(RuntimeError, match="gradients must be finite"):
        trainer.run(poisoned(math.nan))
