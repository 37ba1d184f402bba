"""Ignite's own recipes with our handlers attached, each compared with a hand-written loop of the same job."""

from typing import Any

import pytest
import torch
from ignite.contrib.engines import create_supervised_tbptt_trainer
from ignite.engine import Engine, EventEnum, create_supervised_trainer
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim.lr_scheduler import ExponentialLR, StepLR

from ignite_tips import GradientNormClipper, GradientValueClipper, OptimizerEvents, SchedulerStepper, for_optimizer
from tests.settings import seeded

MAX_NORM = 0.1


def _linear(inputs: int, outputs: int, seed: int) -> nn.Module:
    torch.manual_seed(seeded(seed))
    return nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, outputs))


def _batches(count: int, *shape: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seeded(1))
    return [
        (torch.randn(*shape, generator=generator), torch.randn(shape[0], 2, generator=generator)) for _ in range(count)
    ]


def _sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)


def _same(left: nn.Module, right: nn.Module) -> bool:
    pairs = zip(left.parameters(), right.parameters(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.filterwarnings("ignore:CUDA is not available:UserWarning")  # Ignite's trainer names it
def test_supervised_trainer_with_amp_and_accumulation() -> None:
    """create_supervised_trainer's own amp mode, GradScaler and accumulation of three."""
    model, reference = _linear(3, 2, 5), _linear(3, 2, 5)
    data = _batches(9, 4, 3)
    optimizer = _sgd(model)
    trainer = create_supervised_trainer(
        model,
        optimizer,
        nn.MSELoss(),
        amp_mode="amp",
        scaler=GradScaler("cpu", init_scale=64.0),
        gradient_accumulation_steps=3,
    )
    GradientNormClipper(optimizer, MAX_NORM).attach(trainer)
    SchedulerStepper(StepLR(optimizer, 2)).attach(trainer, OptimizerEvents.STEP_COMPLETED)
    trainer.run(data, max_epochs=2)

    other = _sgd(reference)
    decay = StepLR(other, 2)
    for index, (x, y) in enumerate(data * 2):
        if index % 3 == 0:
            other.zero_grad()
        (nn.functional.mse_loss(reference(x), y) / 3 * 64.0).backward()
        if index % 3 == 2:
            for parameter in reference.parameters():
                parameter.grad /= 64.0
            nn.utils.clip_grad_norm_(reference.parameters(), MAX_NORM)
            other.step()
            decay.step()
    assert _same(model, reference)


def _discriminator_loss(discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    return nn.functional.softplus(-discriminator(real)).mean() + nn.functional.softplus(discriminator(fake)).mean()


def test_a_gan_with_two_optimizers() -> None:
    """Each network has its own clipper and schedule; the generator makes an update in every second iteration."""
    generator, discriminator = _linear(2, 3, 6), _linear(3, 1, 7)
    twins = _linear(2, 3, 6), _linear(3, 1, 7)
    noise = [torch.randn(4, 2, generator=torch.Generator().manual_seed(seeded(i))) for i in range(8)]
    data = [(x, one) for (x, _), one in zip(_batches(8, 4, 3), noise, strict=True)]

    def update(engine: Engine, batch: tuple[Tensor, Tensor]) -> None:
        real, noise = batch
        optimizer_d.zero_grad()
        _discriminator_loss(discriminator, real, generator(noise).detach()).backward()
        optimizer_d.step()
        if engine.state.iteration % 2 == 0:
            optimizer_g.zero_grad()
            nn.functional.softplus(-discriminator(generator(noise))).mean().backward()
            optimizer_g.step()

    optimizer_g, optimizer_d = _sgd(generator), _sgd(discriminator)
    trainer = Engine(update)
    GradientNormClipper(optimizer_d, MAX_NORM, tag="discriminator").attach(trainer)
    GradientValueClipper(optimizer_g, 0.01, tag="generator").attach(trainer)
    SchedulerStepper(StepLR(optimizer_g, 3)).attach(trainer, OptimizerEvents.STEP_COMPLETED)
    SchedulerStepper(ExponentialLR(optimizer_d, 0.9)).attach(trainer, OptimizerEvents.STEP_COMPLETED(every=2))
    updates: list[int] = []
    trainer.add_event_handler(
        for_optimizer(optimizer_g, OptimizerEvents.STEP_COMPLETED),
        lambda engine: updates.append(engine.state.iteration),
    )
    trainer.run(data)

    other_g, other_d = map(_sgd, twins)
    decay_g, decay_d = StepLR(other_g, 3), ExponentialLR(other_d, 0.9)
    for iteration, (real, noise) in enumerate(data, start=1):
        other_d.zero_grad()
        _discriminator_loss(twins[1], real, twins[0](noise).detach()).backward()
        nn.utils.clip_grad_norm_(twins[1].parameters(), MAX_NORM)
        other_d.step()
        if iteration % 2 == 0:
            decay_d.step()
            other_g.zero_grad()
            nn.functional.softplus(-twins[1](twins[0](noise))).mean().backward()
            nn.utils.clip_grad_value_(twins[0].parameters(), 0.01)
            other_g.step()
            decay_g.step()
    assert _same(generator, twins[0])
    assert _same(discriminator, twins[1])
    assert updates == [2, 4, 6, 8]
    assert {"generator/grad_norm", "discriminator/grad_norm"} <= trainer.state.metrics.keys()


class EpisodeEvents(EventEnum):
    """As in Ignite's reinforcement-learning examples."""

    EPISODE_COMPLETED = "episode_completed"


def _finish_episode(optimizer: torch.optim.Optimizer, losses: list[Tensor]) -> None:
    optimizer.zero_grad()
    torch.stack(losses).sum().backward()
    losses.clear()


def test_reinforcement_learning_updates_in_an_event_handler() -> None:
    """A handler makes the update, at the example's own event, which the update function fires."""
    policy, reference = _linear(3, 2, 8), _linear(3, 2, 8)
    observations = [x for x, _ in _batches(10, 1, 3)]

    def act(engine: Engine, observation: Tensor) -> None:
        losses.append(-torch.log_softmax(policy(observation), dim=1)[0, 0])
        if engine.state.iteration % 5 == 0:
            engine.fire_event(EpisodeEvents.EPISODE_COMPLETED)

    losses: list[Tensor] = []
    optimizer = _sgd(policy)
    trainer = Engine(act)
    trainer.register_events(*EpisodeEvents)

    @trainer.on(EpisodeEvents.EPISODE_COMPLETED)
    def learn() -> None:
        _finish_episode(optimizer, losses)
        optimizer.step()

    GradientNormClipper(optimizer, MAX_NORM).attach(trainer)
    SchedulerStepper(ExponentialLR(optimizer, 0.5)).attach(trainer, EpisodeEvents.EPISODE_COMPLETED)
    trainer.run(observations)

    other = _sgd(reference)
    decay = ExponentialLR(other, 0.5)
    for start in (0, 5):
        kept = [-torch.log_softmax(reference(x), dim=1)[0, 0] for x in observations[start : start + 5]]
        _finish_episode(other, kept)
        nn.utils.clip_grad_norm_(reference.parameters(), MAX_NORM)
        other.step()
        decay.step()
    assert _same(policy, reference)
    assert trainer.state.optimizer_step == 2


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(seeded(9))
        self.cell = nn.GRU(3, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        output, hidden = self.cell(x, hidden)
        return self.head(output), hidden


def test_truncated_backpropagation_makes_several_updates_per_iteration() -> None:
    """create_supervised_tbptt_trainer makes three updates in each iteration; each is clipped and scheduled."""
    model, reference = _Recurrent(), _Recurrent()
    data = [(torch.randn(6, 4, 3), torch.randn(6, 4, 2)) for _ in range(2)]
    optimizer = _sgd(model)
    trainer = create_supervised_tbptt_trainer(model, optimizer, nn.MSELoss(), tbtt_step=2)
    GradientNormClipper(optimizer, MAX_NORM).attach(trainer)
    SchedulerStepper(StepLR(optimizer, 2)).attach(trainer, OptimizerEvents.STEP_COMPLETED)
    trainer.run(data)

    other = _sgd(reference)
    decay = StepLR(other, 2)
    for x, y in data:
        hidden: Any = None
        for x_t, y_t in zip(x.split(2), y.split(2), strict=True):
            other.zero_grad()
            output, hidden = reference(x_t, hidden)
            nn.functional.mse_loss(output, y_t).backward()
            nn.utils.clip_grad_norm_(reference.parameters(), MAX_NORM)
            other.step()
            decay.step()
            hidden = hidden.detach()
    assert _same(model, reference)
    assert (trainer.state.iteration, trainer.state.optimizer_step) == (2, 6)
