"""Every clipper as a handler: attached, detached, saved, taken up again, and given bad arguments."""

import math
from typing import Any

import pytest
import torch
from ignite.engine import Engine

from ignite_tips import (
    AdaptiveGradientClipper,
    AutoClipper,
    GradientNormClipper,
    GradientValueClipper,
    ZClipper,
)
from ignite_tips.clipping.gradient_clipper import GradientClipper
from tests.ignite_tips.clipping.support import CLIPPERS, Training, adamw, make_batches, same, sgd


def test_attaching_twice_acts_once_and_detaching_ends_it() -> None:
    """A clipper attached twice acts once; detached, it leaves the engine as it was."""
    training = Training(sgd)
    trainer = training.trainer()
    clipper = AutoClipper(training.optimizer)
    clipper.attach(trainer)
    clipper.attach(trainer)
    trainer.run(make_batches())
    assert len(clipper.state_dict()["rule"]["norms"]) == 8
    clipper.detach()
    trainer.run(make_batches())
    assert len(clipper.state_dict()["rule"]["norms"]) == 8
    assert not any(trainer._event_handlers.values())


@pytest.mark.parametrize("clipper", CLIPPERS)
def test_resume_is_bit_for_bit(clipper: str, tmp_path: Any) -> None:
    """Stopped, saved, read with weights_only=True and taken up by new objects, a run ends as if never stopped."""
    batches = make_batches(9)
    batches[1][0][0, 0] = math.nan

    def make() -> tuple[Training, GradientClipper, Engine]:
        training = Training(adamw)
        handler = CLIPPERS[clipper](training.optimizer, on_nonfinite="skip")
        handler.attach(trainer := training.trainer())
        return training, handler, trainer

    whole, _, trainer = make()
    expected = trainer.run(batches).metrics
    first, handler, trainer = make()
    trainer.run(batches[:5])
    objects = {"model": first.model, "optimizer": first.optimizer, "clipper": handler}
    torch.save({name: one.state_dict() for name, one in objects.items()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    second, handler, trainer = make()
    for name, one in {"model": second.model, "optimizer": second.optimizer, "clipper": handler}.items():
        one.load_state_dict(state[name])
    assert trainer.run(batches[5:]).metrics == expected
    assert expected["skipped_steps"] == 1
    assert same(second, whole)


def test_wrong_states_are_refused() -> None:
    """The state of another clipper is refused, and nothing of it is taken up."""
    optimizer = Training(sgd).optimizer
    auto, norm = AutoClipper(optimizer), GradientNormClipper(optimizer, 1.0)
    with pytest.raises(ValueError, match="AutoClipper state must have the keys skipped_steps, rule, got skipped"):
        auto.load_state_dict(norm.state_dict())
    with pytest.raises(ValueError, match="GradientNormClipper state must have the keys skipped_steps, got"):
        norm.load_state_dict(auto.state_dict())
    with pytest.raises(ValueError, match="skipped_steps must be >= 0, got -1"):
        norm.load_state_dict({"skipped_steps": -1})


def test_bad_arguments_are_named() -> None:
    """Each bad argument is named, with what it must be and what came."""
    training = Training(sgd)
    optimizer, model = training.optimizer, training.model
    for bad in (0, -1.0, math.nan):
        with pytest.raises(ValueError, match="max_norm must be > 0, got "):
            GradientNormClipper(optimizer, bad)
        with pytest.raises(ValueError, match="clip_value must be finite and > 0, got "):
            GradientValueClipper(optimizer, bad)
        with pytest.raises(ValueError, match="percentile must be > 0 and <= 100, got "):
            AutoClipper(optimizer, bad)
    with pytest.raises(ValueError, match="percentile must be > 0 and <= 100, got 101"):
        AutoClipper(optimizer, 101)
    with pytest.raises(ValueError, match="history_size must be >= 1, got 0"):
        AutoClipper(optimizer, history_size=0)
    with pytest.raises(TypeError, match=r"max_norm must be a number, got 'big' \(str\)"):
        GradientNormClipper(optimizer, "big")
    with pytest.raises(ValueError, match="norm_type must be > 0, got 0"):
        GradientNormClipper(optimizer, 1.0, norm_type=0)
    with pytest.raises(TypeError, match=r"per_group must be True or False, got 1 \(int\)"):
        GradientNormClipper(optimizer, 1.0, per_group=1)
    with pytest.raises(ValueError, match="on_nonfinite must be 'raise', 'skip' or 'propagate', got 'ignore'"):
        GradientNormClipper(optimizer, 1.0, on_nonfinite="ignore")
    with pytest.raises(TypeError, match="optimizer must be a torch Optimizer, got an instance of Sequential"):
        GradientNormClipper(model, 1.0)
    with pytest.raises(ValueError, match="optimizer must have at least one parameter, got none"):
        GradientNormClipper(torch.optim.SGD([{"params": []}], lr=0.1), 1.0)
    with pytest.raises(TypeError, match="trainer must be an ignite Engine, got an instance of Sequential"):
        GradientNormClipper(optimizer, 1.0).attach(model)
    with pytest.raises(ValueError, match=r"pattern 'head.*' matches no parameter; names start with: 0.weight"):
        AdaptiveGradientClipper(optimizer, exclude="head.*", model=model)
    with pytest.raises(TypeError, match=r"model must be the torch.nn.Module whose parameters exclude names, got None"):
        AdaptiveGradientClipper(optimizer, exclude="2.*")
    with pytest.raises(ValueError, match="exclude must leave a parameter of the optimizer to clip"):
        AdaptiveGradientClipper(optimizer, exclude="*", model=model)
    for options, message in (
        ({"alpha": 1.0}, "alpha must be > 0 and < 1, got 1"),
        ({"z_threshold": 0}, "z_threshold must be finite and > 0, got 0"),
        ({"max_norm": 0}, "max_norm must be > 0, got 0"),
        ({"warmup_steps": 0}, "warmup_steps must be >= 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            ZClipper(optimizer, **options)
