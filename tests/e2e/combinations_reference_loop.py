"""The reference loop of the combinations: their job in plain PyTorch, without Ignite and ignite_tips."""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from tests.e2e.combinations import (
    EPOCHS,
    MAX_NORM,
    UNFREEZE,
    Point,
    autocast,
    loss_of,
    make_batches,
    make_network,
    make_optimizer,
    outcome,
)


def train_by_hand(point: Point, rank: int = 0) -> dict[str, Any]:
    """Train, and return the result on this rank."""
    network = make_network(point)
    model: nn.Module = network
    body = {"params": list(network.body.parameters()), "lr": 0.05}
    head = {"params": list(network.head.parameters()), "lr": 0.1}
    groups = [[body], [head]] if point.trainer == "two optimizers" else [[body, head]]
    optimizers = [make_optimizer(point, group) for group in groups]
    decays = [StepLR(optimizer, 5, gamma=0.8) for optimizer in optimizers]
    plateaus = [ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.05) for optimizer in optimizers]
    scaler = GradScaler(point.device, init_scale=256.0, enabled=point.precision == "fp16")
    train, validation = make_batches(point, 1, rank), make_batches(point, 2, rank, count=2)
    lrs: list[list[float]] = []
    iteration = 0
    for epoch in range(1, EPOCHS + 1):
        if epoch in (1, UNFREEZE):
            network.body.requires_grad_(epoch >= UNFREEZE)
            if point.strategy == "DDP":
                model = DistributedDataParallel(network)
        for x, y in train:
            if iteration % point.accumulation == 0:
                for optimizer in optimizers:
                    optimizer.zero_grad()
            iteration += 1
            model.train()
            if epoch < UNFREEZE:
                network.body.eval()
            with autocast(point):
                output = model(x)
            scaler.scale(loss_of(point, output, y, iteration) / point.accumulation).backward()
            if iteration % point.accumulation == 0:
                for optimizer, decay in zip(optimizers, decays, strict=True):
                    if _update(optimizer, scaler, lrs):
                        decay.step()
                scaler.update()
        loss = _validate(point, model, validation)
        for plateau in plateaus:
            plateau.step(loss)
    return outcome(network, optimizers, lrs) | {"scaler": scaler.state_dict()}


def _update(optimizer: torch.optim.Optimizer, scaler: GradScaler, lrs: list[list[float]]) -> bool:
    """Clip and update; return whether GradScaler made the update."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if all(parameter.grad is None for parameter in parameters):
        return False
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(parameters, MAX_NORM)
    is_finite = bool((norm.full_tensor() if isinstance(norm, DTensor) else norm).isfinite())
    if is_finite:
        lrs.append([group["lr"] for group in optimizer.param_groups])
    scaler.step(optimizer)
    return is_finite


def _validate(point: Point, model: nn.Module, validation: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    model.eval()
    losses = []
    with torch.no_grad():
        for x, y in validation:
            with autocast(point):
                output = model(x)
            losses.append(nn.functional.mse_loss(output.float(), y))
    loss = torch.stack(losses).double().mean()
    if point.processes > 1:
        dist.all_reduce(loss)
    return (loss / point.processes).item()
