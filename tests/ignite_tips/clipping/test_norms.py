"""Norms and clipping of tensors: properties, and torch's own functions."""

import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.engine import Engine
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, get_total_norm

from ignite_tips import GradientNormClipper, clip_gradient_norm, gradient_norm
from ignite_tips.clipping.norms import clip_coefficient, largest_magnitude, nonfinite_kinds, quick_norm
from tests.oracles import exact_norm, near_norm, rounding_of_norm, roundoff

few = settings(max_examples=60)
VALUES = st.floats(-1e6, 1e6, width=32)
TENSORS = st.lists(st.lists(VALUES, min_size=1, max_size=6).map(torch.tensor), min_size=1, max_size=5)
NORM_TYPES = st.sampled_from([1.0, 1.5, 2.0, 4.0, math.inf])
BOUNDS = st.floats(1e-3, 1e6)


def clones(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.clone() for tensor in tensors]


@few
@given(TENSORS, NORM_TYPES, BOUNDS)
def test_norm_after_is_within_the_bound(tensors: list[Tensor], norm_type: float, bound: float) -> None:
    """The norm after clipping is at most the bound, but for the rounding of the norm and five more."""
    rounding = rounding_of_norm(sum(map(Tensor.numel, tensors)), norm_type) + 5 * roundoff()
    clip_gradient_norm(tensors, bound, norm_type)
    assert exact_norm(tensors, norm_type) <= bound * (1 + rounding)


@few
@given(TENSORS, NORM_TYPES)
def test_the_norm_is_that_of_one_vector(tensors: list[Tensor], norm_type: float) -> None:
    """As in double precision, but for rounding."""
    assert gradient_norm(tensors, norm_type).item() == near_norm(tensors, norm_type)


@few
@given(TENSORS, NORM_TYPES, BOUNDS)
def test_direction_is_kept(tensors: list[Tensor], norm_type: float, bound: float) -> None:
    """All values are multiplied by one factor in (0, 1], so the direction is kept."""
    before = clones(tensors)
    factor = clip_coefficient(clip_gradient_norm(tensors, bound, norm_type), bound)
    assert 0 < factor <= 1
    for tensor, original in zip(tensors, before, strict=True):
        assert torch.equal(tensor, original * factor)


@few
@given(TENSORS, NORM_TYPES, BOUNDS)
def test_clipping_twice_is_clipping_once(tensors: list[Tensor], norm_type: float, bound: float) -> None:
    """A second clipping changes nothing, but for rounding and the 1e-6 in the denominator."""
    # Of two norms; twice, for what is so small that it has fewer digits is rounded by as much as it changes.
    rounding = 2 * (2 * rounding_of_norm(sum(map(Tensor.numel, tensors)), norm_type) + 5 * roundoff() + 1e-6 / bound)
    clip_gradient_norm(tensors, bound, norm_type)
    once = clones(tensors)
    clip_gradient_norm(tensors, bound, norm_type)
    for tensor, first in zip(tensors, once, strict=True):
        torch.testing.assert_close(tensor, first, rtol=rounding, atol=0)


@few
@given(TENSORS, NORM_TYPES)
def test_a_bound_above_the_norm_changes_nothing(tensors: list[Tensor], norm_type: float) -> None:
    """A bound above the norm changes no bit of the tensors, not even the sign of a zero."""
    before = clones(tensors)
    bound = gradient_norm(tensors, norm_type).item() * 1.0001 + 1e-5
    clip_gradient_norm(tensors, bound, norm_type)
    for tensor, original in zip(tensors, before, strict=True):
        assert torch.equal(tensor.view(torch.int32), original.view(torch.int32))


@few
@given(TENSORS, NORM_TYPES, BOUNDS)
def test_equals_torch(tensors: list[Tensor], norm_type: float, bound: float) -> None:
    """Norm and clipped values of tensors of one device and dtype are those of clip_grad_norm_, bit for bit."""
    parameters = [torch.nn.Parameter(tensor) for tensor in tensors]
    for parameter in parameters:
        parameter.grad = parameter.detach().clone()
    expected = clip_grad_norm_(parameters, bound, norm_type)
    values = clones(tensors)
    assert torch.equal(clip_gradient_norm(values, bound, norm_type), expected)
    for value, parameter in zip(values, parameters, strict=True):
        assert torch.equal(value, parameter.grad)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nonfinite_values_do_as_in_torch(value: float) -> None:
    """A NaN or infinite value makes of the others what clip_grad_norm_ makes of them."""
    parameter = torch.nn.Parameter(torch.zeros(3))
    parameter.grad = torch.tensor([1.0, value, 2.0])
    tensor = parameter.grad.clone()
    clip_grad_norm_([parameter], 1.0)
    clip_gradient_norm(tensor, 1.0)
    assert torch.equal(tensor.nan_to_num(nan=-1.0), parameter.grad.nan_to_num(nan=-1.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_values_are_summed_in_float32(dtype: torch.dtype) -> None:
    """The norm of 16-bit values neither overflows nor loses digits."""
    tensor = torch.full((10_000,), 1000.0, dtype=dtype)
    norm = gradient_norm([tensor])
    assert norm.dtype == torch.float32
    assert norm.item() == near_norm([tensor])
    clip_gradient_norm([tensor], 1.0)
    assert gradient_norm([tensor]).item() == pytest.approx(1.0, rel=0.01)


def test_several_dtypes_have_one_norm() -> None:
    """Tensors of several dtypes are clipped by one factor of their common norm."""
    tensors = [
        torch.tensor([3.0]),
        torch.tensor([4.0], dtype=torch.float64),
        torch.tensor([12.0], dtype=torch.bfloat16),
    ]
    assert clip_gradient_norm(tensors, 6.5).item() == pytest.approx(13.0)
    assert [tensor.item() for tensor in tensors] == pytest.approx([1.5, 2.0, 6.0])


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # torch 2.11
def test_sparse_tensors_count_as_what_they_stand_for() -> None:
    """Duplicate entries of a sparse tensor are added up for its norm; a coalesced one is scaled in place."""
    sparse = torch.sparse_coo_tensor([[1, 1, 3]], [1.0, 2.0, 4.0], (5,), check_invariants=True)
    dense = torch.zeros(2)
    assert gradient_norm([sparse, dense]).item() == 5.0
    with pytest.raises(ValueError, match=r"a sparse tensor must be coalesced .*; call its coalesce\(\) first"):
        clip_gradient_norm([sparse], 1.0)
    coalesced = sparse.coalesce()
    clip_gradient_norm([coalesced, dense], 2.5)
    assert coalesced.to_dense().tolist() == pytest.approx([0, 1.5, 0, 2.0, 0])


def test_empty_tensors_have_the_norm_zero() -> None:
    """No tensors, and tensors without values, have the norm 0, the infinity norm included."""
    assert gradient_norm([]) == 0
    assert gradient_norm([torch.zeros(0), torch.tensor([-2.0])], math.inf) == 2


def test_gradients_with_a_graph_are_measured_without() -> None:
    """The norm of gradients that have a graph (create_graph=True) has none."""
    weight = torch.tensor([2.0], requires_grad=True)
    assert not gradient_norm([weight**2]).requires_grad


def test_total_norm_is_torchs() -> None:
    """A single tensor, as several, has the norm of torch.nn.utils.get_total_norm."""
    tensors = [torch.randn(7, 5), torch.randn(3)]
    assert torch.equal(gradient_norm(tensors), get_total_norm(tensors))
    assert torch.equal(gradient_norm(tensors[0]), get_total_norm(tensors[0]))


@pytest.mark.parametrize("max_norm", [np.float32(0.5), torch.tensor(0.5), Fraction(1, 2), Decimal("0.5")], ids=repr)
@pytest.mark.parametrize("norm_type", ["inf", torch.tensor(3), np.int64(1)], ids=repr)
def test_numbers_of_any_kind_clip_as_in_torch(max_norm: Any, norm_type: Any) -> None:
    """The threshold and the type of the norm may be what clip_grad_norm_ takes, "inf" among it."""
    parameter = torch.nn.Parameter(torch.zeros(3))
    parameter.grad = torch.tensor([1.0, -2.0, 3.0])
    values = parameter.grad.clone()
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    own = parameter.grad.clone()
    clip_gradient_norm(values, max_norm, norm_type)
    trainer = Engine(lambda engine, batch: optimizer.step())
    GradientNormClipper(optimizer, max_norm, norm_type=norm_type).attach(trainer)
    trainer.run([0])
    reference = torch.nn.Parameter(torch.zeros(3))
    reference.grad = own
    clip_grad_norm_([reference], 0.5, float(norm_type))
    assert torch.equal(values, reference.grad)
    torch.testing.assert_close(parameter.grad, reference.grad, rtol=1e-6, atol=0)


def test_bad_arguments_are_named() -> None:
    """Each bad argument is named, with what it must be."""
    tensor = torch.ones(2)
    for bad in (0, -1.0, math.nan):
        with pytest.raises(ValueError, match="max_norm must be > 0, got "):
            clip_gradient_norm(tensor, bad)
    with pytest.raises(TypeError, match=r"max_norm must be a number, got 'x' \(str\)"):
        clip_gradient_norm(tensor, "x")
    with pytest.raises(ValueError, match="norm_type must be > 0, got 0"):
        gradient_norm(tensor, 0)
    with pytest.raises(TypeError, match="each of tensors must be a tensor, got 3"):
        gradient_norm([3])


def test_parameters_are_not_taken_for_gradients() -> None:
    """Torch's functions take parameters; here, that would scale the weights."""
    parameter = torch.nn.Parameter(torch.ones(2))
    functions: list[Callable[..., Tensor]] = [gradient_norm, partial(clip_gradient_norm, max_norm=5.0)]
    for function in functions:
        with pytest.raises(
            TypeError, match=r"^tensors must be gradients, got a Parameter; pass p\.grad of each that has"
        ):
            function([parameter])
        assert function([parameter.detach()]) == pytest.approx(math.sqrt(2))


def test_nonfinite_kinds_names_both() -> None:
    """NaN and infinity are told apart; finite values are neither."""
    assert nonfinite_kinds([torch.tensor([1.0])]) == [""]
    assert nonfinite_kinds([torch.tensor([math.nan])]) == ["NaN"]
    assert nonfinite_kinds([torch.tensor([-math.inf, math.nan])]) == ["NaN and inf"]


@pytest.mark.parametrize("size", [3, 2000])
@pytest.mark.parametrize("outlier", [-7.0, 7.0, -math.inf, math.nan])
def test_the_largest_magnitude_is_the_infinity_norm(size: int, outlier: float) -> None:
    """On the CPU both ends are found instead; a NaN gives NaN."""
    tensors = [torch.linspace(-1, 1, size), torch.linspace(-2, 2, size)]
    tensors[1][1] = outlier
    expected = get_total_norm(tensors, math.inf)
    torch.testing.assert_close(largest_magnitude(tensors), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("place", [(0, 0), (1, 1_999), (2, 0)])
def test_the_largest_magnitude_is_that_of_all_sizes_and_dtypes(place: tuple[int, int]) -> None:
    """Small tensors are copied together; one may have no values, and there may be none at all."""
    tensors = [torch.zeros(1, 2), torch.zeros(2_000, dtype=torch.float64), torch.zeros(3, dtype=torch.float16)]
    assert largest_magnitude(tensors) == largest_magnitude([torch.zeros(0)]) == largest_magnitude([]) == 0
    tensors[place[0]].view(-1)[place[1]] = -1 - 2.0**-10
    assert largest_magnitude(tensors) == 1 + 2.0**-10


@pytest.mark.parametrize(("measure", "operation"), [(quick_norm, "aten::dot"), (largest_magnitude, "aten::aminmax")])
def test_all_small_tensors_are_measured_by_one_call(measure: Callable[[list[Tensor]], object], operation: str) -> None:
    """Their number makes no difference; a large one has a call of its own."""
    tensors = [torch.ones(4, 4) for _ in range(100)] + [torch.ones(40, 50)]
    with torch.profiler.profile(acc_events=True) as profile:
        measure(tensors)
    assert [event.count for event in profile.key_averages() if event.key == operation] == [2]


def test_norms_of_small_and_large_tensors_add_up() -> None:
    """In one norm, whatever their shapes."""
    tensors = [torch.full((2, 3), 2.0), torch.full((50, 40), 3.0), torch.full((5,), 4.0)]
    assert quick_norm(tensors) == pytest.approx(math.sqrt(6 * 4 + 2_000 * 9 + 5 * 16), rel=rounding_of_norm(2_011))
