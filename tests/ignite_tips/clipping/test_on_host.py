"""GradientNormClipper on the CPU, where it measures vectors and large matrices by dot products, the rest by norms."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from torch import Tensor, nn

from ignite_tips import AutoClipper, GradientNormClipper
from tests.oracles import exact_norm, near_norm, rounding_of_norm, roundoff
from tests.settings import seeded

LARGE = (200, 200)
BATCHES = (1, 3, 2)  # what the gradients are multiplied by
SHAPES: dict[str, list[tuple[int, ...]]] = {
    "vectors": [(40_000,), (3,), (500,)],
    "large": [LARGE, (40, 10, 10, 10), LARGE],
    "small": [(3, 4), (), (2, 3, 4)],
    "mixed": [(7,), LARGE, (5, 6), (40_000,)],
}
# What a gradient may be beside contiguous values of its own.
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": lambda values: values,
    "transposed": lambda values: values.mT.contiguous().mT if values.dim() > 1 else values,
    "expanded": lambda values: values.flatten()[:1].reshape([1] * values.dim()).expand(values.shape).mul(2),
    "strided": lambda values: torch.stack([values, values], dim=-1)[..., 0],
    "of a graph": lambda values: values.requires_grad_() * 2,
}


def train(
    max_norm: float,
    shapes: list[tuple[int, ...]],
    *,
    clip: bool,
    make_optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
    fused: bool = False,
    layout: str = "plain",
    dtype: torch.dtype = torch.float32,
    poison: float | None = None,
    scales: Sequence[float] = (1.0, 1.0, 1.0),
) -> tuple[list[Tensor], list[dict[str, float]]]:
    """Three updates on given gradients; ``clip`` attaches the clipper, otherwise clip_grad_norm_ is called by hand.

    ``scales`` multiply the gradients of each update first. Return the parameters, and the metrics of each update.
    """
    torch.manual_seed(seeded(2))
    parameters = [nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in shapes]
    gradients = make_gradients(shapes, dtype)
    if poison is not None:
        gradients[1] = gradients[1].flatten().index_fill(0, torch.tensor([0]), poison).view(shapes[1])
    optimizer = make_optimizer(parameters, lr=0.1, fused=fused)
    metrics: list[dict[str, float]] = []

    def update(engine: Engine, batch: int) -> None:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = LAYOUTS[layout](gradient.detach() * (batch * scales[engine.state.iteration - 1]))
        if not clip:
            nn.utils.clip_grad_norm_(parameters, max_norm)
        optimizer.step()
        metrics.append(dict(engine.state.metrics))

    trainer = Engine(update)
    if clip:
        GradientNormClipper(optimizer, max_norm).attach(trainer)
    trainer.run(BATCHES)
    return [parameter.detach() for parameter in parameters], metrics


def make_gradients(shapes: list[tuple[int, ...]], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Return gradients of norms near 10 each, so that none is small enough to be missed unseen."""
    torch.manual_seed(seeded(3))
    return [torch.randn(shape, dtype=dtype) * (10 / math.sqrt(math.prod(shape))) for shape in shapes]


@pytest.mark.parametrize(
    ("make_optimizer", "fused"),
    [(torch.optim.AdamW, False), (torch.optim.AdamW, True), (torch.optim.SGD, True)],
    ids=["ordinary", "fused", "fused SGD"],
)
@pytest.mark.parametrize("share", [math.inf, 1.25, 0.02], ids=["never", "once", "always"])
@pytest.mark.parametrize("shapes", SHAPES)
def test_it_equals_clip_grad_norm(
    shapes: str, share: float, make_optimizer: Callable[..., torch.optim.Optimizer], fused: bool
) -> None:
    """The parameters are those of the loop bit for bit where nothing is folded; also when only one update is clipped.

    Where it is, the norm is another sum than torch's: it is near the exact one, and the loop scales by what it gives.
    """
    gradients = make_gradients(SHAPES[shapes])
    norms = [batch * exact_norm(gradients) for batch in BATCHES]
    bound = share * norms[-1]
    options = {"make_optimizer": make_optimizer, "fused": fused}
    ours, metrics = train(bound, SHAPES[shapes], clip=True, **options)
    # Of a sum, and of the gradients that are multiplied by the batch first.
    rounding = rounding_of_norm(sum(gradient.numel() for gradient in gradients)) + roundoff()
    assert [one["grad_norm"] for one in metrics] == pytest.approx(norms, rel=rounding)
    factors = [min(1.0, bound / (one["grad_norm"] + 1e-6)) for one in metrics]
    assert [one["grad_clip_coef"] for one in metrics] == pytest.approx(factors, rel=5 * roundoff())
    if fused and share != math.inf and shapes != "small":
        theirs, _ = train(math.inf, SHAPES[shapes], clip=False, scales=factors, **options)
        # Seven roundings make a gradient, and twice as many Adam's square of it; then come those of the update, six at
        # most. A step of AdamW is no larger than its learning rate times the root of the number of updates.
        largest = max(float(gradient.abs().max()) for gradient in gradients) * max(BATCHES)
        steps = sum(0.1 * (math.sqrt(n) if make_optimizer is torch.optim.AdamW else largest) for n in (1, 2, 3))
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=3 * 6 * roundoff(), atol=steps * 2 * 7 * roundoff())
    else:
        theirs, _ = train(bound, SHAPES[shapes], clip=False, **options)
        assert all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("max_norm", [1e9, 1.0])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
def test_every_gradient_is_measured(dtype: torch.dtype, layout: str, max_norm: float) -> None:
    """However its values lie in memory, whatever numbers they are, within bounds or not, and clipped as by torch."""
    ours, metrics = train(max_norm, SHAPES["mixed"], clip=True, layout=layout, dtype=dtype)
    theirs, _ = train(max_norm, SHAPES["mixed"], clip=False, layout=layout, dtype=dtype)
    assert all(map(torch.equal, ours, theirs))
    gradients = [LAYOUTS[layout](gradient * BATCHES[-1]) for gradient in make_gradients(SHAPES["mixed"], dtype)]
    assert metrics[-1]["grad_norm"] == near_norm(gradients, dtype=dtype)


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "make_clipper",
    [
        lambda optimizer: GradientNormClipper(optimizer, 9.0),
        lambda optimizer: GradientNormClipper(optimizer, 9.0, norm_type=1.0),
        lambda optimizer: AutoClipper(optimizer, 1),
    ],
    ids=["2-norm", "1-norm", "auto"],
)
def test_double_precision_is_folded_too(
    make_clipper: Callable[[torch.optim.Optimizer], Any], default: torch.dtype
) -> None:
    """Fused kernels take the factor in float32 whatever they update, and whatever tensors are made of by default."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        parameter = nn.Parameter(torch.zeros(LARGE[0], 400, dtype=torch.float64))
        optimizer = torch.optim.SGD([parameter], lr=1.0, fused=True)

        def update(engine: Engine, batch: float) -> None:
            parameter.grad = torch.full_like(parameter, batch)
            optimizer.step()

        trainer = Engine(update)
        make_clipper(optimizer).attach(trainer)
        metrics = trainer.run([1.0, 1.0, 2.0]).metrics
    finally:
        torch.set_default_dtype(before)
    assert metrics["grad_clip_coef"] < 1
    assert parameter.detach().abs().max() < 4


@pytest.mark.filterwarnings("ignore:GradientNormClipper found no gradient")
@pytest.mark.parametrize("default", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("per_group", [False, True])
def test_a_list_without_gradients_has_a_norm_of_zero(per_group: bool, default: torch.dtype) -> None:
    """Whatever tensors are made of by default."""
    parameters = [nn.Parameter(torch.zeros(4)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [parameter]} for parameter in parameters], lr=1.0)

    def update(engine: Engine, batch: float) -> None:
        parameters[1].grad = torch.full((4,), batch, dtype=torch.float32) if batch else None
        optimizer.step()

    GradientNormClipper(optimizer, 1.0, per_group=per_group, norm_type=1.0).attach(trainer := Engine(update))
    torch.set_default_dtype(default)
    try:
        norms = [trainer.run([batch], max_epochs=1).metrics["grad_norm"] for batch in (0.0, 2.0)]
    finally:
        torch.set_default_dtype(torch.float32)
    assert norms == pytest.approx([0.0, 8.0])
    assert parameters[1].tolist() == pytest.approx([-0.25] * 4)


@pytest.mark.parametrize("on_nonfinite", ["skip", "propagate"])
def test_a_norm_too_large_for_its_dtype_is_infinite(on_nonfinite: str) -> None:
    """As torch's is, though the squares of the two vectors are not."""
    parameters = [nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(2)]
    optimizer = torch.optim.SGD(parameters, lr=1.0)

    def update(engine: Engine, batch: int) -> None:
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, 1e154)
        optimizer.step()

    GradientNormClipper(optimizer, 1.0, on_nonfinite=on_nonfinite).attach(trainer := Engine(update))
    state = trainer.run([0])
    assert (state.optimizer_step, state.metrics["skipped_steps"]) == ((0, 1) if on_nonfinite == "skip" else (1, 0))
    assert parameters[0].tolist() == [0.0]


def test_a_divisor_too_large_for_the_kernel_is_not_folded() -> None:
    """Fused kernels take it in float32; float64 gradients may need more."""
    weight = nn.Parameter(torch.zeros(70_000, dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=1.0, fused=True)

    def update(engine: Engine, batch: int) -> None:
        weight.grad = torch.full_like(weight, 1e37)
        optimizer.step()

    GradientNormClipper(optimizer, 1.0).attach(trainer := Engine(update))
    trainer.run([0])
    assert weight.norm().item() == pytest.approx(1.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_of_their_own_dtype_are_measured_in_float32(dtype: torch.dtype) -> None:
    """As ``grad_dtype`` lets those of float32 parameters be of 16 bits."""
    parameters = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(4, 4))]
    optimizer = torch.optim.SGD(parameters, lr=1.0, foreach=False)
    for parameter in parameters:
        parameter.grad_dtype = dtype

    def update(engine: Engine, batch: int) -> None:
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter, dtype=dtype)
        optimizer.step()

    GradientNormClipper(optimizer, 1.0).attach(trainer := Engine(update))
    assert trainer.run([0]).metrics["grad_norm"] == pytest.approx(math.sqrt(19), rel=rounding_of_norm(19))
    assert parameters[0].tolist() == pytest.approx([-1 / math.sqrt(19)] * 3, rel=0.01)


@pytest.mark.parametrize("fused", [False, True], ids=["ordinary", "fused"])
@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_found(value: float, shapes: str, fused: bool) -> None:
    """It lies within no bound."""
    kind = "NaN" if math.isnan(value) else "inf"
    with pytest.raises(RuntimeError, match=f"gradients must be finite, got {kind} in parameter 1"):
        train(1e9, SHAPES[shapes], fused=fused, clip=True, poison=value)
