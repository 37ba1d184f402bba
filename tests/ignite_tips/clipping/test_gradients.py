"""Clippers on gradients of every kind: of groups, sparse, of several dtypes, of several clippers and optimizers."""

import math
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events, create_supervised_trainer
from torch import nn

from ignite_tips import GradientNormClipper, GradientValueClipper
from ignite_tips.core.events import OptimizerEvents
from tests.ignite_tips.clipping.support import CLIPPERS, KINDS, SIZE, Batch, Training, adamw, make_batches, same, sgd
from tests.oracles import TRAINED_IN_DOUBLE, rounding_of_norm
from tests.settings import seeded

NORM = 2 * rounding_of_norm(SIZE)  # how far two norms of the model's gradients may be apart


def test_per_group_clips_each_group_by_its_own_norm() -> None:
    """With per_group each group is clipped as by clip_grad_norm_ alone, also one whose gradients are all None."""
    groups = lambda model: [{"params": model[0].parameters()}, {"params": model[2].parameters()}]  # noqa: E731
    expected, training = (Training(lambda m: torch.optim.SGD(groups(m), lr=0.1)) for _ in range(2))
    for one in (expected, training):
        one.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    clip = nn.utils.clip_grad_norm_
    norms = expected.by_hand(lambda m: [clip(m[i].parameters(), 0.3).item() for i in (0, 2)], make_batches())
    GradientNormClipper(training.optimizer, 0.3, per_group=True).attach(trainer := training.trainer())
    state = trainer.run(make_batches())
    assert same(training, expected)
    assert state.metrics["grad_norm"] == pytest.approx(math.hypot(*norms[-1]), rel=NORM)
    assert state.metrics["grad_clip_coef"] == pytest.approx(0.3 / max(norms[-1]), rel=2 * NORM)


@pytest.mark.parametrize("clipper", CLIPPERS)
def test_sparse_gradients_are_clipped_as_dense_ones(clipper: str) -> None:
    """An embedding's sparse gradient, with rows drawn twice, trains as its dense one does."""
    results = []
    for sparse in (False, True):
        torch.manual_seed(seeded(3))
        model = nn.Sequential(nn.Embedding(7, 4, sparse=sparse), nn.Linear(4, 1)).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)

        def update(engine: Engine, batch: torch.Tensor, model: nn.Module = model, optimizer: Any = optimizer) -> None:
            optimizer.zero_grad()
            model(batch).square().sum().backward()
            optimizer.step()

        CLIPPERS[clipper](optimizer).attach(trainer := Engine(update))
        state = trainer.run([torch.tensor([1, 1, 5, 0]), torch.tensor([2, 1, 1, 6])])
        results.append((list(model.parameters()), state.metrics["grad_norm"], state.metrics["grad_clip_coef"]))
    (dense, dense_norm, dense_factor), (sparse, sparse_norm, sparse_factor) = results
    assert sparse_norm == pytest.approx(dense_norm, rel=TRAINED_IN_DOUBLE)
    assert sparse_factor == pytest.approx(dense_factor, rel=TRAINED_IN_DOUBLE)
    for one, other in zip(dense, sparse, strict=True):
        torch.testing.assert_close(one, other, rtol=TRAINED_IN_DOUBLE, atol=TRAINED_IN_DOUBLE)


def test_nonfinite_sparse_gradients_are_named() -> None:
    """A NaN in a sparse gradient is found and named."""
    embedding = nn.Embedding(3, 2, sparse=True)
    optimizer = torch.optim.SGD(embedding.named_parameters(), lr=0.1)

    def update(engine: Engine, batch: torch.Tensor) -> None:
        (embedding(batch) * math.nan).sum().backward()
        optimizer.step()

    GradientNormClipper(optimizer, 1.0).attach(trainer := Engine(update))
    with pytest.raises(RuntimeError, match="got NaN in weight in update 1 of SGD"):
        trainer.run([torch.tensor([0, 0])])


@pytest.mark.parametrize("clipper", CLIPPERS)
def test_parameters_without_a_gradient_are_passed_over(clipper: str) -> None:
    """As if the optimizer did not have them, wherever they stand; nor does one without values matter."""
    trained = []
    for all_parameters in (False, True):
        training = Training(sgd)
        training.model[0].weight.requires_grad_(False)
        training.model[2].bias.requires_grad_(False)
        if not all_parameters:
            kept = [parameter for parameter in training.model.parameters() if parameter.requires_grad]
            training.optimizer = sgd(nn.ParameterList(kept))
        else:
            training.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(0, 3))]})
            training.optimizer.param_groups[1]["params"][0].grad = torch.zeros(0, 3)
        CLIPPERS[clipper](training.optimizer).attach(trainer := training.trainer())
        metrics = trainer.run(make_batches()[:1]).metrics
        trained.append((training.model, metrics["grad_norm"], metrics["grad_clip_coef"]))
    (expected, norm, factor), (model, *told) = trained
    assert told == pytest.approx([norm, factor], rel=NORM)
    assert all(map(torch.equal, model.parameters(), expected.parameters()))


@pytest.mark.parametrize("clipper", CLIPPERS)
def test_a_model_may_change_its_dtype(clipper: str) -> None:
    """Between two updates, as by ``model.bfloat16()``, which keeps the parameters and changes what they hold."""
    trained = []
    for before in (torch.float32, torch.bfloat16):
        parameters = [nn.Parameter(torch.ones(3, 2, dtype=before)), nn.Parameter(torch.ones(2, dtype=before))]
        optimizer = torch.optim.SGD(parameters, lr=0.5)

        def update(engine: Engine, batch: float, parameters: Any = parameters, optimizer: Any = optimizer) -> None:
            for parameter in parameters:
                if batch > 1:
                    parameter.grad, parameter.data = None, parameter.data.bfloat16()
                parameter.grad = torch.full_like(parameter, batch)
            optimizer.step()

        CLIPPERS[clipper](optimizer).attach(trainer := Engine(update))
        trained.append((trainer.run([1.0, 8.0]).metrics, [p.tolist() for p in parameters]))
    (changed, values), (always, expected) = trained
    assert changed["grad_norm"] == pytest.approx(always["grad_norm"], rel=1e-2)
    for one, other in zip(values, expected, strict=True):
        torch.testing.assert_close(torch.tensor(one), torch.tensor(other), rtol=0.01, atol=0.02)


@pytest.mark.parametrize("clipper", CLIPPERS)
def test_gradients_with_a_graph_are_clipped_outside_of_it(clipper: str) -> None:
    """Some have one, others not, as after ``backward(create_graph=True)``: it is as it was, and so is what they are."""
    parameters = [nn.Parameter(torch.ones(3)) for _ in range(3)]
    optimizer = torch.optim.SGD(parameters, lr=0.5)
    leaf = torch.full((3,), 4.0, requires_grad=True)

    def update(engine: Engine, batch: int) -> None:
        parameters[0].grad, parameters[1].grad, parameters[2].grad = torch.ones(3), leaf * 2, leaf
        optimizer.step()

    CLIPPERS[clipper](optimizer).attach(trainer := Engine(update))
    functions: list[Any] = []
    trainer.add_event_handler(
        OptimizerEvents.STEP_STARTED, lambda: functions.extend(type(p.grad.grad_fn).__name__ for p in parameters)
    )
    assert trainer.run([0]).metrics["grad_clip_coef"] <= 1
    assert functions == ["NoneType", "MulBackward0", "NoneType"]


def test_sparse_gradients_of_vectors_and_of_single_values() -> None:
    """AGC: a vector is one unit, whichever of its values the gradient has; what is sparse within rows is refused."""
    factors = []
    for sparse in (False, True):
        vector = nn.Parameter(torch.ones(4))
        optimizer = torch.optim.SGD([vector], lr=0.1)

        def update(
            engine: Engine, batch: int, vector: Any = vector, optimizer: Any = optimizer, s: bool = sparse
        ) -> None:
            gradient = torch.tensor([0.0, 3.0, 0.0, 4.0])
            vector.grad = gradient.to_sparse() if s else gradient
            optimizer.step()

        CLIPPERS["agc"](optimizer).attach(trainer := Engine(update))
        factors.append(trainer.run([0]).metrics["grad_clip_coef"])
    assert factors[0] == pytest.approx(factors[1]) == pytest.approx(0.01 * 2 / 5)

    matrix = nn.Parameter(torch.ones(2, 2))
    optimizer = torch.optim.SGD([matrix], lr=0.1)

    def update_matrix(engine: Engine, batch: int) -> None:
        matrix.grad = torch.eye(2).to_sparse()
        optimizer.step()

    CLIPPERS["agc"](optimizer).attach(trainer := Engine(update_matrix))
    sentence = (
        "AdaptiveGradientClipper must have sparse gradients of whole rows, got one of 2 sparse dimensions; exclude"
    )
    with pytest.raises(TypeError, match=sentence):
        trainer.run([0])
    assert torch.equal(matrix, torch.ones(2, 2))


@pytest.mark.parametrize("clipper", ["auto", "z"])
def test_a_model_that_was_frozen_whole_trains_on(clipper: str) -> None:
    """Updates without a gradient leave no trace in what a bound is found by, which they would bring to zero."""
    trained = []
    for frozen in (0, 4):
        training = Training(sgd)
        training.model.requires_grad_(frozen == 0)
        handler = CLIPPERS[clipper](training.optimizer)

        def update(engine: Engine, batch: Batch, training: Training = training, frozen: int = frozen) -> None:
            if engine.state.iteration > frozen:
                training.model.requires_grad_(True)
                training.backward(batch)
            training.optimizer.step()
            training.optimizer.zero_grad()

        handler.attach(trainer := Engine(update))
        metrics = trainer.run(make_batches()[:4] * (2 if frozen else 1)).metrics
        trained.append((training, handler.state_dict(), metrics))
    (expected, state, metrics), (training, told, others) = trained
    assert same(training, expected)
    assert str(told) == str(state)
    assert others == metrics
    assert metrics["grad_clip_coef"] > 0


@pytest.mark.parametrize("clipper", CLIPPERS)
def test_an_optimizer_of_empty_parameters_is_left_alone(clipper: str) -> None:
    """There is nothing to clip, and nothing to take the smallest of."""
    empty = nn.Parameter(torch.zeros(0, 3))
    optimizer = torch.optim.SGD([empty], lr=0.1)

    def update(engine: Engine, batch: int) -> None:
        empty.grad = torch.zeros(0, 3)
        optimizer.step()

    CLIPPERS[clipper](optimizer).attach(trainer := Engine(update))
    metrics = trainer.run([0, 1]).metrics
    assert (metrics["grad_norm"], metrics["grad_clip_coef"]) == (0, 1)


@pytest.mark.parametrize("clipper", CLIPPERS)
def test_several_dtypes_are_clipped(clipper: str) -> None:
    """Parameters of several dtypes, 16-bit ones among them, are clipped together."""
    parameters = [
        nn.Parameter(torch.ones(3, 2, dtype=dtype)) for dtype in (torch.float32, torch.bfloat16, torch.float64)
    ]
    optimizer = torch.optim.SGD(parameters, lr=0.0)

    def update(engine: Engine, batch: float) -> None:
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, batch)
        optimizer.step()

    CLIPPERS[clipper](optimizer).attach(trainer := Engine(update))
    state = trainer.run([1.0, 1.0, 8.0])
    norm = 8.0 if clipper == "value" else 8 * math.sqrt(18)
    assert state.metrics["grad_norm"] == pytest.approx(norm, rel=rounding_of_norm(18))
    first = parameters[0].grad[0, 0].item()
    assert first < 8
    for parameter in parameters:
        assert parameter.grad.dtype == parameter.dtype
        assert parameter.grad.float().flatten().tolist() == pytest.approx([first] * 6, rel=0.01)


def test_groups_added_later_are_clipped() -> None:
    """A param group that is added between two updates is clipped from the next one on."""
    expected, training = Training(sgd), Training(sgd)
    extra = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))]

    def add(one: Training, parameter: nn.Parameter, iteration: int) -> None:
        if iteration == 3:
            one.optimizer.add_param_group({"params": [parameter]})
        parameter.grad = torch.tensor([3.0, -4.0])

    counter = iter(range(1, 100))

    def clip(model: nn.Module) -> None:
        add(expected, extra[0], next(counter))
        group = [p for g in expected.optimizer.param_groups for p in g["params"]]
        nn.utils.clip_grad_norm_(group, 0.3)

    expected.by_hand(clip, make_batches())
    later = iter(range(1, 100))
    trainer = training.trainer(lambda one: add(one, extra[1], next(later)))
    GradientNormClipper(training.optimizer, 0.3).attach(trainer)
    trainer.run(make_batches())
    assert torch.equal(*extra)
    assert not torch.equal(extra[0], torch.ones(2))
    assert same(training, expected)


def test_a_parameter_in_the_place_of_another_is_clipped() -> None:
    """In the same list of a group, which neither grows nor is made anew."""
    parameters = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    optimizer = torch.optim.SGD(parameters[:1], lr=1.0)

    def update(engine: Engine, batch: int) -> None:
        optimizer.param_groups[0]["params"][0] = parameters[batch]
        parameters[batch].grad = torch.tensor([100.0])
        optimizer.step()

    GradientNormClipper(optimizer, 1.0).attach(trainer := Engine(update))
    trainer.run([0, 1])
    assert [parameter.item() for parameter in parameters] == pytest.approx([-1.0, -1.0])


def test_two_clippers_of_one_optimizer_compose() -> None:
    """Of two clippers both act, the second on what the first has left, with fused optimizers too."""
    for options in KINDS.values():
        expected, training = (Training(adamw, **options) for _ in range(2))

        def clip(model: nn.Module) -> None:
            nn.utils.clip_grad_norm_(model.parameters(), 0.3)
            nn.utils.clip_grad_value_(model.parameters(), 0.1)
            nn.utils.clip_grad_norm_(model.parameters(), 0.15)

        expected.by_hand(clip, make_batches())
        trainer = training.trainer()
        clippers = [
            GradientNormClipper(training.optimizer, 0.3),
            GradientValueClipper(training.optimizer, 0.1),
            GradientNormClipper(training.optimizer, 0.15),
        ]
        for clipper in clippers:
            clipper.attach(trainer)
        sentence = "GradientNormClipper clips the trainer's AdamW twice, with max_norm=0.3 and then with max_norm=0.15"
        with pytest.warns(UserWarning, match=sentence) as caught:
            trainer.run(make_batches())
        assert len(caught) == 1
        assert same(training, expected)


@pytest.mark.parametrize("clipper", CLIPPERS)
def test_a_second_clipper_of_one_class_is_told_of(clipper: str) -> None:
    """When the run starts, as long as the first is attached and no tags say that both are meant."""
    training = Training(sgd)
    trainer = training.trainer()
    first = CLIPPERS[clipper](training.optimizer).attach(trainer).attach(trainer)
    second = CLIPPERS[clipper](training.optimizer).attach(trainer)
    with pytest.warns(UserWarning, match=r"clips the trainer's SGD twice, both times with .* create a new trainer"):
        trainer.run(make_batches(), max_epochs=2)
    first.detach()
    trainer.run(make_batches(), max_epochs=3)
    second.detach()
    for tag in ("before", "after"):
        CLIPPERS[clipper](training.optimizer, tag=tag).attach(trainer)
    trainer.run(make_batches(), max_epochs=4)
    assert trainer.state.epoch == 4


def test_clippers_of_two_optimizers_that_write_one_metric_are_told_of() -> None:
    """Whatever their classes, when the run starts; not when a tag tells them apart, nor on another trainer."""
    one, other = Training(sgd), Training(adamw)
    trainer = one.trainer(lambda _: other.optimizer.step())
    GradientNormClipper(one.optimizer, 1.0).attach(trainer)
    second = GradientValueClipper(other.optimizer, 1.0).attach(trainer)
    sentence = "GradientValueClipper of one AdamW writes the metric 'grad_norm', as does another optimizer's Gradient"
    next(iter(other.model.parameters())).grad = torch.ones_like(next(iter(other.model.parameters())))
    with pytest.warns(UserWarning, match=sentence) as caught:
        trainer.run(make_batches())
    assert len(caught) == 1
    second.attach(other.trainer()).detach()
    GradientValueClipper(other.optimizer, 1.0, tag="other").attach(trainer)
    trainer.run(make_batches(), max_epochs=2)
    assert "other/grad_norm" in trainer.state.metrics


def test_handlers_that_follow_see_clipped_gradients() -> None:
    """With a fused optimizer too a handler attached after the clipper sees what the update will use."""
    training = Training(adamw, fused=True)
    trainer = training.trainer()
    GradientNormClipper(training.optimizer, 0.05).attach(trainer)
    seen = []
    trainer.add_event_handler(
        OptimizerEvents.STEP_STARTED,
        lambda: seen.append(nn.utils.get_total_norm([p.grad for p in training.model.parameters()]).item()),
    )
    trainer.run(make_batches())
    # The 1e-6 is added to a norm of more than 0.05.
    assert seen == pytest.approx([0.05] * len(seen), rel=2 * NORM + 1e-6 / 0.05)


def test_two_optimizers_have_a_clipper_each() -> None:
    """Clippers of two optimizers clip their own alone, and write metrics of their own names."""
    model, expected = Training(sgd).model, Training(sgd).model
    halves = [torch.optim.SGD(model[i].parameters(), lr=0.1) for i in (0, 2)]
    by_hand = [torch.optim.SGD(expected[i].parameters(), lr=0.1) for i in (0, 2)]
    bounds = (0.2, 0.4)

    def update(engine: Engine, batch: Batch) -> None:
        nn.functional.mse_loss(model(batch[0]), batch[1]).backward()
        for optimizer in halves:
            optimizer.step()
            optimizer.zero_grad()

    trainer = Engine(update)
    for optimizer, bound, tag in zip(halves, bounds, ("first", "last"), strict=True):
        GradientNormClipper(optimizer, bound, tag=tag).attach(trainer)
    metrics = trainer.run(make_batches()).metrics
    norms = {}
    for x, y in make_batches():
        nn.functional.mse_loss(expected(x), y).backward()
        for layer, optimizer, bound in zip((0, 2), by_hand, bounds, strict=True):
            norms[layer] = nn.utils.clip_grad_norm_(expected[layer].parameters(), bound).item()
            optimizer.step()
            optimizer.zero_grad()
    for one, other in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, other)
    assert (metrics["first/grad_norm"], metrics["last/grad_norm"]) == pytest.approx((norms[0], norms[2]), rel=NORM)


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_ignites_supervised_trainer_is_as_without(accumulate: int) -> None:
    """Ignite's closed form of theta after accumulation holds with a clipper of infinite bound."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    trainer = create_supervised_trainer(
        model, optimizer, nn.functional.mse_loss, gradient_accumulation_steps=accumulate
    )
    GradientNormClipper(optimizer, math.inf).attach(trainer)
    x, y = torch.tensor([[0.01], [0.02], [0.03], [0.04]]), torch.tensor([[0.015], [0.025], [0.035], [0.045]])
    theta, gradient, history = 0.0, 0.0, []

    def check(engine: Engine) -> None:
        nonlocal theta, gradient
        gradient += (2 * x * (theta * x - y)).mean().item() / accumulate
        if engine.state.iteration % accumulate == 0:
            theta -= 0.1 * gradient
            gradient = 0.0
        history.append(model.weight.item() == pytest.approx(theta, rel=1e-5))

    trainer.add_event_handler(Events.ITERATION_COMPLETED, check)
    trainer.run([(x, y)] * 8)
    assert history == [True] * 8
    assert theta != 0
