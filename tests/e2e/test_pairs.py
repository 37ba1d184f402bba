"""Pairs of tips, and of a tip and users' own parts: each equals the hand-written loop, or is refused."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events, create_supervised_trainer
from ignite.handlers import EMAHandler
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR, StepLR
from torch.optim.swa_utils import SWALR, AveragedModel

import ignite_tips as tips
from tests.e2e.combinations import difference
from tests.settings import seeded

PER_UPDATE = tips.OptimizerEvents.STEP_COMPLETED
Batches = list[tuple[torch.Tensor, torch.Tensor]]


class Net(nn.Module):
    """A body and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU())
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def build(optimizer: Callable[..., Any] = torch.optim.SGD, **options: Any) -> tuple[Net, Any]:
    torch.manual_seed(seeded(5))
    model = Net()
    options = {"momentum": 0.9} | options if optimizer is torch.optim.SGD else options
    return model, optimizer(model.parameters(), lr=0.1, **options)


def batches(count: int = 6, rank: int = 0) -> Batches:
    generator = torch.Generator().manual_seed(seeded(rank))
    return [(torch.randn(8, 4, generator=generator), torch.randn(8, 2, generator=generator)) for _ in range(count)]


def supervised(model: nn.Module, optimizer: Any, accumulation: int = 1) -> Engine:
    return create_supervised_trainer(model, optimizer, nn.MSELoss(), gradient_accumulation_steps=accumulation)


def backward(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor], accumulation: int = 1) -> None:
    (nn.functional.mse_loss(model(batch[0]), batch[1]) / accumulation).backward()


def left(model: nn.Module, optimizer: Any) -> dict[str, Any]:
    lrs = [group["lr"] for group in optimizer.param_groups]
    return copy.deepcopy({"model": dict(model.state_dict()), "state": optimizer.state_dict()["state"], "lrs": lrs})


def assert_same(one: tuple[nn.Module, Any], other: tuple[nn.Module, Any]) -> None:
    assert difference("", left(*one), left(*other)) == []


def loop(model: nn.Module, optimizer: Any, epochs: int, before_step: Any = None, **hooks: Any) -> None:
    """A hand-written loop, without Ignite and ignite_tips."""
    accumulation, iteration = hooks.get("accumulation", 1), 0
    for epoch in range(1, epochs + 1):
        for batch in batches(hooks.get("count", 6)):
            if iteration % accumulation == 0:
                optimizer.zero_grad()
            iteration += 1
            model.train()
            hooks.get("mode", lambda epoch: None)(epoch)
            backward(model, batch, accumulation)
            if iteration % accumulation == 0:
                if before_step is not None:
                    before_step()
                optimizer.step()
                hooks.get("after_step", lambda: None)()
        hooks.get("after_epoch", lambda epoch: None)(epoch)


def test_two_clippers() -> None:
    """They act one after the other, like two lines of the loop; an optimizer may have any number."""
    mine, reference = build(), build()
    trainer = supervised(*mine)
    tips.GradientNormClipper(mine[1], 0.3).attach(trainer)
    tips.GradientValueClipper(mine[1], 0.02, tag="value").attach(trainer)
    trainer.run(batches(), max_epochs=2)

    def clip() -> None:
        nn.utils.clip_grad_norm_(reference[0].parameters(), 0.3)
        nn.utils.clip_grad_value_(reference[0].parameters(), 0.02)

    loop(*reference, 2, clip)
    assert_same(mine, reference)
    assert trainer.state.metrics["grad_norm"] > trainer.state.metrics["value/grad_norm"]


def test_two_clippers_of_a_large_fused_optimizer() -> None:
    """The first does not fold its factor into the fused kernel, because the second must see the clipped gradients."""
    torch.manual_seed(seeded())
    results = []
    for by_hand in (False, True):
        parameter = nn.Parameter(torch.linspace(-1, 1, 100_000))
        optimizer = torch.optim.SGD([parameter], lr=0.1, fused=True)

        def update(engine: Engine, batch: float, parameter: nn.Parameter = parameter, by_hand: bool = by_hand) -> None:
            parameter.grad = parameter.detach() * batch
            if by_hand:
                nn.utils.clip_grad_norm_([parameter], 1.0)
                nn.utils.clip_grad_value_([parameter], 0.003)
            optimizer.step()  # noqa: B023  # called within the loop's turn

        trainer = Engine(update)
        if not by_hand:
            tips.GradientNormClipper(optimizer, 1.0).attach(trainer)
            tips.GradientValueClipper(optimizer, 0.003).attach(trainer)
        trainer.run([1.0, 2.0, 3.0])
        results.append(parameter.detach())
    assert torch.equal(*results)


def test_two_schedulers_that_continue_from_the_current_lr() -> None:
    """One per update and one per epoch, in the loop's order."""
    mine, reference = build(), build()
    trainer = supervised(*mine)
    tips.SchedulerStepper(ExponentialLR(mine[1], 0.97)).attach(trainer, PER_UPDATE)
    tips.SchedulerStepper(StepLR(mine[1], 2)).attach(trainer)
    trainer.run(batches(), max_epochs=4)
    inner, outer = ExponentialLR(reference[1], 0.97), StepLR(reference[1], 2)
    loop(*reference, 4, after_step=inner.step, after_epoch=lambda _: outer.step())
    assert_same(mine, reference)


def test_a_warmup_that_a_filter_ends() -> None:
    """LambdaLR is closed-form, but if its event ends before the other begins, nothing is undone."""
    mine, reference = build(), build()
    trainer = supervised(*mine)
    warmup, decay = (LambdaLR(mine[1], lambda step: min(1.0, (step + 1) / 6)), StepLR(mine[1], 1, 0.5))
    tips.SchedulerStepper(warmup).attach(trainer, PER_UPDATE(before=6))
    tips.SchedulerStepper(decay).attach(trainer)
    trainer.run(batches(), max_epochs=3)
    other_warmup = LambdaLR(reference[1], lambda step: min(1.0, (step + 1) / 6))
    other_decay, updates = StepLR(reference[1], 1, 0.5), []

    def after_step() -> None:
        updates.append(1)
        if len(updates) < 6:
            other_warmup.step()

    loop(*reference, 3, after_step=after_step, after_epoch=lambda _: other_decay.step())
    assert_same(mine, reference)


@pytest.mark.parametrize("fused", [None, True], ids=["foreach", "fused"])
def test_freezing_parameters_that_have_optimizer_state(fused: bool | None) -> None:
    """Adam's moments and step counts pause, as in a loop that sets requires_grad."""
    options = {"fused": True} if fused else {"foreach": True}
    mine, reference = build(torch.optim.AdamW, **options), build(torch.optim.AdamW, **options)
    trainer = supervised(*mine)
    freezer = tips.ParameterFreezer(mine[0], "body.*", optimizer=mine[1])
    freezer.attach(trainer, freeze=Events.EPOCH_STARTED(once=2), unfreeze=Events.EPOCH_STARTED(once=3))
    tips.GradientNormClipper(mine[1], 0.1).attach(trainer)
    trainer.run(batches(), max_epochs=4)

    def mode(epoch: int) -> None:
        reference[0].body.requires_grad_(epoch != 2)
        reference[0].body.train(epoch != 2)

    loop(*reference, 4, lambda: nn.utils.clip_grad_norm_(reference[0].parameters(), 0.1), mode=mode)
    assert_same(mine, reference)


def test_accumulation_across_epochs() -> None:
    """If the number of batches is not a multiple of it, an accumulation is frozen, scheduled and ended halfway.

    Ignite counts iterations across epochs, and so does the loop: the last two batches make no update.
    """
    mine, reference = build(), build()
    trainer = supervised(*mine, accumulation=3)
    freezer = tips.ParameterFreezer(mine[0], "body.*", optimizer=mine[1])
    freezer.attach(trainer, freeze=Events.EPOCH_STARTED(once=2), unfreeze=Events.EPOCH_STARTED(once=3))
    tips.GradientNormClipper(mine[1], 0.1).attach(trainer)
    tips.SchedulerStepper(StepLR(mine[1], 2)).attach(trainer)
    trainer.run(batches(5), max_epochs=4)

    def mode(epoch: int) -> None:
        for parameter in reference[0].body.parameters():
            parameter.requires_grad_(epoch != 2)
            if epoch == 2:
                parameter.grad = None
        reference[0].body.train(epoch != 2)

    scheduler = StepLR(reference[1], 2)
    clip = lambda: nn.utils.clip_grad_norm_(reference[0].parameters(), 0.1)  # noqa: E731
    loop(*reference, 4, clip, mode=mode, after_epoch=lambda _: scheduler.step(), accumulation=3, count=5)
    assert_same(mine, reference)
    assert trainer.state.optimizer_step == 6


def test_ignites_ema_per_update() -> None:
    """EMAHandler accepts our event, so under accumulation it averages once per update."""
    mine, reference = build(), build()
    trainer = supervised(*mine, accumulation=2)
    freezer = tips.ParameterFreezer(mine[0], "body.*").attach(trainer, unfreeze=Events.EPOCH_STARTED(once=2))
    tips.GradientNormClipper(mine[1], 0.1).attach(trainer)
    ema = EMAHandler(mine[0], momentum=0.1)
    ema.attach(trainer, event=PER_UPDATE)
    trainer.run(batches(), max_epochs=3)
    average = copy.deepcopy(reference[0])

    def after_step() -> None:
        with torch.no_grad():
            for mean, value in zip(average.parameters(), reference[0].parameters(), strict=True):
                mean.mul_(0.9).add_(value, alpha=0.1)
            for mean, value in zip(average.buffers(), reference[0].buffers(), strict=True):
                mean.copy_(value)

    def mode(epoch: int) -> None:
        reference[0].body.requires_grad_(epoch != 1)
        reference[0].body.train(epoch != 1)

    clip = lambda: nn.utils.clip_grad_norm_(reference[0].parameters(), 0.1)  # noqa: E731
    loop(*reference, 3, clip, mode=mode, after_step=after_step, accumulation=2)
    assert_same(mine, reference)
    assert difference("", dict(ema.ema_model.state_dict()), dict(average.state_dict())) == []
    assert not freezer.frozen


def test_stochastic_weight_averaging() -> None:
    """AveragedModel in a handler, and SWALR after another schedule, each in its own epochs."""
    mine, reference = build(), build()
    trainer = supervised(*mine)
    averaged = AveragedModel(mine[0])
    tips.GradientNormClipper(mine[1], 0.1).attach(trainer)
    decay, constant = StepLR(mine[1], 1, 0.5), SWALR(mine[1], swa_lr=0.02, anneal_epochs=2)
    tips.SchedulerStepper(decay).attach(trainer, Events.EPOCH_COMPLETED(before=3))
    tips.SchedulerStepper(constant).attach(trainer, Events.EPOCH_COMPLETED(after=2))
    trainer.add_event_handler(Events.EPOCH_COMPLETED(after=2), lambda: averaged.update_parameters(mine[0]))
    trainer.run(batches(), max_epochs=5)
    other_averaged = AveragedModel(reference[0])
    other_decay, other_constant = StepLR(reference[1], 1, 0.5), SWALR(reference[1], swa_lr=0.02, anneal_epochs=2)

    def after_epoch(epoch: int) -> None:
        if epoch < 3:
            other_decay.step()
        else:
            other_constant.step()
            other_averaged.update_parameters(reference[0])

    loop(*reference, 5, lambda: nn.utils.clip_grad_norm_(reference[0].parameters(), 0.1), after_epoch=after_epoch)
    assert_same(mine, reference)
    assert difference("", dict(averaged.state_dict()), dict(other_averaged.state_dict())) == []


def test_a_closure_that_is_evaluated_once() -> None:
    """Its gradients are clipped before the update."""
    mine, reference = build(), build()

    def update(engine: Engine, batch: Any) -> None:
        def closure() -> None:
            mine[1].zero_grad()
            backward(mine[0], batch)

        mine[1].step(closure)

    trainer = Engine(update)
    tips.GradientNormClipper(mine[1], 0.1).attach(trainer)
    trainer.run(batches(), max_epochs=2)
    loop(*reference, 2, lambda: nn.utils.clip_grad_norm_(reference[0].parameters(), 0.1))
    assert_same(mine, reference)


@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0")
def test_a_compiled_model() -> None:
    """torch.compile's module is clipped and frozen like the module inside it; each freeze triggers a recompile."""
    mine, reference = build(), build()
    compiled, other = (torch.compile(pair[0], backend="aot_eager") for pair in (mine, reference))
    trainer = supervised(compiled, mine[1])
    tips.ParameterFreezer(compiled, "body.*").attach(trainer, unfreeze=Events.EPOCH_STARTED(once=2))
    tips.GradientNormClipper(mine[1], 0.1).attach(trainer)
    trainer.run(batches(), max_epochs=2)

    def mode(epoch: int) -> None:
        reference[0].body.requires_grad_(epoch != 1)
        reference[0].body.train(epoch != 1)

    loop(other, reference[1], 2, lambda: nn.utils.clip_grad_norm_(reference[0].parameters(), 0.1), mode=mode)
    assert_same(mine, reference)


def test_data_parallel_on_a_cpu() -> None:
    """DataParallel is a pass-through there; several GPUs are not tested here."""
    mine, reference = build(), build()
    model = nn.DataParallel(mine[0])
    trainer = supervised(model, mine[1])
    tips.GradientNormClipper(mine[1], 0.1, model=model).attach(trainer)
    trainer.run(batches())
    loop(*reference, 1, lambda: nn.utils.clip_grad_norm_(reference[0].parameters(), 0.1))
    assert_same(mine, reference)
