"""Folding into fused kernels: folds compose, hold for one update, and are undone exactly."""

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
    """After two folds the kernel divides the gradients by both scales; with powers of two, without rounding."""
    parameter, optimizer = fused(cls)
    step = OptimizerStep(optimizer, 1)
    assert step.is_fused
    step.fold(grad_scale=torch.tensor(2.0))
    step.fold(grad_scale=torch.tensor(4.0))
    optimizer.step()
    step.restore()
    expected, by_hand = fused(cls)
    expected.grad /= 8
    by_hand.step()
    assert torch.equal(parameter, expected)
    assert not hasattr(optimizer, "grad_scale")


def test_one_found_inf_skips_the_update() -> None:
    """Of two folds with found_inf, one that is 1 skips the update; state and parameters do not change."""
    parameter, optimizer = fused()
    step = OptimizerStep(optimizer, 1)
    step.fold(found_inf=torch.tensor(1.0))
    step.fold(found_inf=torch.tensor(0.0))
    optimizer.step()
    step.restore()
    assert torch.equal(parameter, torch.ones(3))
    assert not hasattr(optimizer, "found_inf")


def test_what_the_user_set_is_restored() -> None:
    """Attributes that existed, even as None, exist again afterwards: GradScaler deletes those it has set."""
    _, optimizer = fused()
    optimizer.grad_scale, optimizer.found_inf = None, torch.tensor(0.0)
    step = OptimizerStep(optimizer, 1)
    step.fold(grad_scale=torch.tensor(2.0), found_inf=torch.tensor(1.0))
    step.restore()
    assert optimizer.grad_scale is None
    assert optimizer.found_inf.item() == 0.0


def test_only_fused_optimizers_are_fused() -> None:
    """If one group is not fused, nothing can be folded."""
    parameter = nn.Parameter(torch.ones(1))
    assert not OptimizerStep(torch.optim.AdamW([parameter], foreach=True), 1).is_fused
    optimizer = torch.optim.AdamW([parameter], fused=True)
    optimizer.param_groups[0]["fused"] = False
    assert not OptimizerStep(optimizer, 1).is_fused
