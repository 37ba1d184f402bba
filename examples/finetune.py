"""Pre-train on the digits 0 to 4, then learn 5 to 9 from few examples: gradual unfreezing or training from scratch.

    python examples/finetune.py                          one process
    ignite-launch --nproc 2 examples/finetune.py         two processes, DistributedDataParallel

The head is new and trains alone at first. After every few epochs one more part of the network is unfrozen. Each part
has its own learning rate: the further from the head, the lower. The network trained from scratch has the same data,
epochs and learning rates. The data are the real scanned digits of 8 x 8 pixels that ship with scikit-learn.
"""

import argparse
import time
from dataclasses import dataclass
from statistics import median

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events, create_supervised_evaluator, create_supervised_trainer
from ignite.metrics import Accuracy
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from ignite_tips import GradualUnfreezer, layerwise_lr_groups, param_group_table, process_group, wrap_model

Batch = tuple[torch.Tensor, ...]
PARTS = ("stem", "body", "neck")  # from the input to the output; the head follows


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fine-tune a small network by gradual unfreezing.")
    parser.add_argument("--pretrain-epochs", type=int, default=10)
    parser.add_argument("--every", type=int, default=5, help="epochs from one stage of the unfreezing to the next")
    parser.add_argument("--examples", type=int, default=60, help="how many of the digits 5 to 9 to learn from")
    parser.add_argument("--batch-size", type=int, default=20, help="for all processes together")
    parser.add_argument(
        "--decay", type=float, default=0.6, help="the factor from a part's learning rate to that of the part before it"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def build_network() -> nn.Sequential:
    network = nn.Sequential()
    network.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    network.body = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
    network.neck = nn.Sequential(
        nn.MaxPool2d(2), nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten()
    )
    network.head = nn.Linear(512, 5)
    return network


def load_two_tasks(examples: int, seed: int) -> tuple[TensorDataset, TensorDataset, TensorDataset]:
    """Return the digits 0 to 4, some of 5 to 9 to learn from, and the rest of 5 to 9 for the accuracy."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    first, second = (labels < 5).nonzero().squeeze(1), (labels >= 5).nonzero().squeeze(1)
    second = second[torch.randperm(len(second), generator=torch.Generator().manual_seed(seed))]
    chosen = (first, second[:examples], second[examples:])
    few, few_labels = images[chosen[1]], labels[chosen[1]] - 5
    return (
        TensorDataset(images[first], labels[first]),
        TensorDataset(few, few_labels),
        TensorDataset(images[chosen[2]], labels[chosen[2]] - 5),
    )


def build_loader(dataset: TensorDataset, batch_size: int, seed: int, *, shuffle: bool) -> DataLoader[Batch]:
    """Return a loader of this process's part of the data."""
    sampler = DistributedSampler[Batch](
        dataset, idist.get_world_size(), idist.get_rank(), shuffle=shuffle, seed=seed, drop_last=shuffle
    )
    return DataLoader(dataset, batch_size // idist.get_world_size(), sampler=sampler, drop_last=shuffle)


@dataclass
class Phase:
    """The result of a few epochs."""

    fraction: float
    accuracy: float
    seconds: float


def train(
    model: nn.Module,
    data: TensorDataset,
    judged_by: TensorDataset,
    phase_epochs: list[int],
    options: argparse.Namespace,
    *,
    tune: bool = False,
) -> list[Phase]:
    """Train in phases of some epochs each and return each one's result; with gradual unfreezing if `tune`."""
    device = idist.device()
    layers = [f"{part}.*" for part in PARTS]
    groups = layerwise_lr_groups(model, layers, lr=3e-3, decay=options.decay if tune else 1.0, no_decay="norms")
    optimizer = torch.optim.AdamW(groups, weight_decay=1e-2)
    trainer = create_supervised_trainer(model, optimizer, nn.CrossEntropyLoss(), device)
    evaluator = create_supervised_evaluator(model, {"accuracy": Accuracy(device=device)}, device)
    loader = build_loader(data, options.batch_size, options.seed, shuffle=True)
    judging = build_loader(judged_by, 256, options.seed, shuffle=False)
    sampler = loader.sampler
    assert isinstance(sampler, DistributedSampler)
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda engine: sampler.set_epoch(engine.state.epoch))
    if tune:
        stages = ["head.*", *reversed(layers)]
        GradualUnfreezer(model, stages, optimizer=optimizer).attach(trainer, every=options.every)
        if idist.get_rank() == 0:
            trainer.add_event_handler(
                Events.EPOCH_STARTED(once=1), lambda: print(f"\nat first\n{param_group_table(model, optimizer)}\n")
            )
    phases: list[Phase] = []
    times: list[float] = []
    trainer.add_event_handler(Events.ITERATION_STARTED, lambda: times.append(-time.perf_counter()))

    @trainer.on(Events.ITERATION_COMPLETED)
    def stop_the_clock() -> None:
        times[-1] += time.perf_counter()

    ends = [sum(phase_epochs[: index + 1]) for index in range(len(phase_epochs))]

    @trainer.on(Events.EPOCH_COMPLETED(once=ends))
    def end_phase(engine: Engine) -> None:
        evaluator.run(judging)
        fraction = engine.state.metrics.get("trainable_fraction", 1.0)
        phases.append(Phase(fraction, evaluator.state.metrics["accuracy"], median(times)))
        times.clear()

    trainer.run(loader, max_epochs=ends[-1])
    return phases


def main(options: argparse.Namespace) -> None:
    torch.manual_seed(options.seed)
    many, few, rest = load_two_tasks(options.examples, options.seed)
    phases = [options.every] * (len(PARTS) + 1)  # one per stage

    network = build_network()
    pretrained = train(wrap_model(network), many, many, [options.pretrain_epochs], options)
    network.head = nn.Linear(512, 5).to(idist.device())
    tuned = train(wrap_model(network), few, rest, phases, options, tune=True)
    from_scratch = train(wrap_model(build_network()), few, rest, phases, options)

    if idist.get_rank() == 0:
        print(f"pre-trained on the digits 0 to 4: accuracy there {pretrained[-1].accuracy:.3f}")
        print(f"then {options.examples} examples of 5 to 9, tested on the other {len(rest)}:\n")
        print("epochs   fine-tuned: trains  accuracy   step      from scratch: accuracy   step")
        for index, (ours, theirs) in enumerate(zip(tuned, from_scratch, strict=True)):
            first, last = index * options.every + 1, (index + 1) * options.every
            print(
                f"{first:2d} to {last:2d} {ours.fraction:17.1%} {ours.accuracy:9.3f} {ours.seconds * 1e3:6.2f} ms"
                f" {theirs.accuracy:22.3f} {theirs.seconds * 1e3:7.2f} ms"
            )


if __name__ == "__main__":
    with process_group():
        main(parse_arguments())
