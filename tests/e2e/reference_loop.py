"""The demo's job as a hand-written PyTorch loop, without Ignite and ignite_tips."""

from typing import Any

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import ExponentialLR, ReduceLROnPlateau
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset, random_split

from tests.settings import seeded


def network_by_hand() -> nn.Module:
    network = nn.Module()
    network.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    network.body = nn.Sequential(
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
    network.head = nn.Sequential(nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10))
    network.forward = lambda x: network.head(network.body(network.stem(x)))
    return network


def train_digits_by_hand(rank: int, world_size: int, epochs: int, freeze_epoch: int, accumulation: int) -> Any:
    """Return the final weights and buffers, and the learning rates of each update."""
    torch.manual_seed(seeded())
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    dataset = TensorDataset(images, torch.tensor(digits.target))
    part, validation = random_split(dataset, [1437, 360], generator=torch.Generator().manual_seed(seeded()))
    sampler = DistributedSampler(part, world_size, rank, shuffle=True, seed=seeded(), drop_last=True)
    loader = DataLoader(part, batch_size=64 // world_size, sampler=sampler, drop_last=True)
    validation_sampler = DistributedSampler(validation, world_size, rank, shuffle=False)
    validation_loader = DataLoader(validation, batch_size=64 // world_size, sampler=validation_sampler)

    network = network_by_hand()
    model = DistributedDataParallel(network)
    optimizer = torch.optim.SGD(
        [
            {"params": list(network.stem.parameters()), "lr": 0.02},
            {"params": list(network.body.parameters()), "lr": 0.04},
            {"params": list(network.head.parameters()), "lr": 0.08},
        ],
        lr=0.1,
        momentum=0.9,
        weight_decay=1e-4,
    )
    decay = ExponentialLR(optimizer, gamma=0.93)
    plateau = ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
    loss_fn = nn.CrossEntropyLoss()
    lrs: list[list[float]] = []
    iteration = 0

    for epoch in range(1, epochs + 1):
        frozen = epoch >= freeze_epoch
        if epoch == freeze_epoch:
            network.stem.requires_grad_(False)
            network.body.requires_grad_(False)
            model = DistributedDataParallel(network)
        sampler.set_epoch(epoch)
        for x, y in loader:
            if iteration % accumulation == 0:
                optimizer.zero_grad()
            iteration += 1
            model.train()
            if frozen:
                network.stem.eval()
                network.body.eval()
            (loss_fn(model(x), y) / accumulation).backward()
            if iteration % accumulation == 0:
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                lrs.append([group["lr"] for group in optimizer.param_groups])
                optimizer.step()
        decay.step()
        model.eval()
        total = torch.zeros(2, dtype=torch.float64)
        with torch.no_grad():
            for x, y in validation_loader:
                total += torch.tensor([loss_fn(model(x), y).item() * len(x), len(x)])
        dist.all_reduce(total)
        plateau.step((total[0] / total[1]).item())
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}, lrs
