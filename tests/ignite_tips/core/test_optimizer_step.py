"""Folding into fused kernels: it composes, holds for one update, and is undone exactly."""

import pytest
import torch
from torch import nn

from ignite_tips.core.optimizer_step import OptimizerStep


def fused(cls: type[torch.optim.Optimizer] = torch.optim.AdamW) -> tuple[nn.Parameter, torch.optim.Optimizer]:
    parameter = nn.Parameter(torch.ones(3))
    parameter.grad = torch.tensor([1.0, 2.0, 3.0])
    return parameter, cls([parameter], lr=0.1, fused=True)


ADAGRAD = pytest.param(
    torch.optim.Adagrad, marks=pytest.mark.skipif(torch.__version__ < "2.13", reason="its older kernel takes no scale")
)


@pytest.mark.parametrize("cls", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, ADAGRAD])
def test_two_folds_divide_by_both_scales(cls: type[torch.optim.Optimizer]) -> None:
    """Folded twice, the kernel divides the gradients by both scales: by powers of two, without rounding."""
    parameter, optimizer = fused(cls)
    step = OptimizerStep(optimizer, 1)
    assert step.can_fold
    step.fold(grad_scale=torch.tensor(2.0))
    step.fold(grad_scale=torch.tensor(4.0))
    optimizer.step()
    step.restore()
    expected, by_hand = fused(cls)
    expected.grad /= 8
    by_hand.step()
    assert torch.equal(parameter, expected)
    assert not hasattr(optimizer, "grad_scale")


def test_one_found_inf_is_enough_to_skip() -> None:
    """Of two folds that may skip the update, one that does is enough; state and parameters stay."""
    parameter, optimizer = fused()
    step = OptimizerStep(optimizer, 1)
    step.fold(found_inf=torch.tensor(1.0))
    step.fold(found_inf=torch.tensor(0.0))
    optimizer.step()
    step.restore()
    assert torch.equal(parameter, torch.ones(3))
    assert not hasattr(optimizer, "found_inf")


def test_what_the_user_set_is_there_again() -> None:
    """Attributes that were there, even None, are there again: GradScaler deletes what it has set."""
    _, optimizer = fused()
    optimizer.grad_scale, optimizer.found_inf = None, torch.tensor(0.0)
    step = OptimizerStep(optimizer, 1)
    step.fold(grad_scale=torch.tensor(2.0), found_inf=torch.tensor(1.0))
    step.restore()
    assert optimizer.grad_scale is None
    assert optimizer.found_inf.item() == 0.0


def test_only_fused_optimizers_can_fold() -> None:
    """Where one group is not fused, nothing is folded."""
    parameter = nn.Parameter(torch.ones(1))
    assert not OptimizerStep(torch.optim.AdamW([parameter], foreach=True), 1).can_fold
    optimizer = torch.optim.AdamW([parameter], fused=True)
    optimizer.param_groups[0]["fused"] = False
    assert not OptimizerStep(optimizer, 1).can_fold
