"""Trainers in which nothing is wrong: the report has no finding, before and after each run."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.contrib.engines import create_supervised_tbptt_trainer
from ignite.engine import Engine, Events, create_supervised_trainer
from ignite.handlers import Checkpoint, EarlyStopping, EMAHandler, LRScheduler, ProgressBar, TerminateOnNan
from ignite.handlers.param_scheduler import create_lr_scheduler_with_warmup
from ignite.metrics import RunningAverage
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim.lr_scheduler import CosineAnnealingLR, CosineAnnealingWarmRestarts, CyclicLR, ReduceLROnPlateau, StepLR

import ignite_tips as tips
from ignite_tips import OptimizerEvents
from ignite_tips.core.findings import Finding
from tests.ignite_tips.report.scene import EPOCHS, LENGTH, Net, Scene

EXAMPLES = Path(__file__).parents[3] / "examples"
SHORT = {
    "char_rnn": ["--updates", "25", "--picture", "{folder}/picture.png"],
    "digits": ["--epochs", "4", "--freeze-epoch", "3", "--runs", "{folder}"],
    "finetune": ["--pretrain-epochs", "2", "--every", "2"],
}


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """All findings of each trainer with handlers of ours, before and after each run."""
    run, findings = Engine.run, []

    def run_and_report(engine: Engine, *args: Any, **kwargs: Any) -> Any:
        findings.extend(tips.describe_trainer(engine).findings)
        state = run(engine, *args, **kwargs)
        findings.extend(tips.describe_trainer(engine).findings)
        return state

    monkeypatch.setattr(Engine, "run", run_and_report)
    return findings


@pytest.mark.parametrize("name", SHORT)
def test_the_examples_are_right(
    name: str, found: list[Finding], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each example that trains, run whole."""
    monkeypatch.setattr(sys, "argv", [name, *(argument.format(folder=tmp_path) for argument in SHORT[name])])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert found == []


def _with_everything(scene: Scene) -> None:
    rules = {"body.*": {"lr": 0.01}, "head.*": {"lr": 0.1}}
    scene.use(tips.param_groups(scene.model, rules), torch.optim.SGD, momentum=0.9)
    trainer, optimizer = scene.trainer, scene.optimizer
    warm = tips.with_warmup(CosineAnnealingLR(optimizer, T_max=EPOCHS * LENGTH - 4), 4)
    freezer = tips.ParameterFreezer(scene.model, "body.*", optimizer=optimizer)
    handlers = [scene.clip(), scene.schedule(warm, OptimizerEvents.STEP_COMPLETED)]
    handlers += [freezer.attach(trainer, unfreeze=Events.EPOCH_STARTED(once=3))]
    scene.validate()
    handlers += [tips.PlateauStepper(ReduceLROnPlateau(optimizer)).attach(trainer, scene.evaluator)]
    tips.LearningRateLogger(optimizer).attach(trainer)
    to_save = {"trainer": trainer, "model": scene.model, "optimizer": optimizer, **dict(enumerate(handlers))}
    trainer.add_event_handler(Events.EPOCH_COMPLETED, Checkpoint(to_save, _save_nothing))
    ProgressBar().attach(trainer, ["grad_norm", "lr/head"])


def _save_nothing(*_: Any, **__: Any) -> None:
    """Stand for a DiskSaver."""


def _with_ignites_handlers(scene: Scene) -> None:
    clipper = scene.clip()
    average = EMAHandler(scene.model)
    average.attach(scene.trainer)
    RunningAverage(output_transform=lambda loss: loss).attach(scene.trainer, "loss")
    scene.validate()
    stopping = EarlyStopping(3, lambda engine: -engine.state.metrics["loss"], scene.trainer)
    scene.evaluator.add_event_handler(Events.COMPLETED, stopping)
    scene.trainer.add_event_handler(Events.ITERATION_COMPLETED, TerminateOnNan())
    best = Checkpoint({"model": average.ema_model}, _save_nothing)  # of the best model, not to resume from
    scene.evaluator.add_event_handler(Events.COMPLETED, best)
    to_save = {"t": scene.trainer, "m": scene.model, "e": average.ema_model, "o": scene.optimizer, "c": clipper}
    scene.trainer.add_event_handler(Events.EPOCH_COMPLETED, Checkpoint(to_save, _save_nothing))


def _with_ignites_schedule_from_0(scene: Scene) -> None:
    scene.use(scene.model.parameters(), lr=0.1)
    schedule = create_lr_scheduler_with_warmup(
        LRScheduler(StepLR(scene.optimizer, 20)), warmup_start_value=0.0, warmup_end_value=0.1, warmup_duration=4
    )
    scene.trainer.add_event_handler(Events.ITERATION_STARTED, schedule)
    scene.clip()


def _with_accumulation_and_amp(scene: Scene) -> None:
    scene.trainer = create_supervised_trainer(
        scene.model,
        scene.optimizer,
        nn.CrossEntropyLoss(),
        amp_mode="amp",
        scaler=GradScaler("cpu", init_scale=64.0),
        gradient_accumulation_steps=2,
    )
    scene.clip(model=scene.model)
    scene.schedule(CosineAnnealingLR(scene.optimizer, T_max=EPOCHS * LENGTH // 2), OptimizerEvents.STEP_COMPLETED)


def _two_optimizers_of_one_model(scene: Scene) -> None:
    scene.use(scene.model.body.parameters())
    scene.head = head = torch.optim.SGD(scene.model.head.parameters(), lr=0.1)
    scene.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: head.step())
    scene.clip(model=scene.model)


def _a_gan(scene: Scene) -> None:
    generator, discriminator = nn.Linear(2, 4), Net()
    optimizer_g, optimizer_d = (torch.optim.Adam(net.parameters(), lr=1e-3) for net in (generator, discriminator))

    def update(engine: Engine, batch: Any) -> None:
        real, fake = batch[0], generator(torch.randn(8, 2))
        optimizer_d.zero_grad()
        softplus = nn.functional.softplus
        (softplus(discriminator(fake.detach())).mean() + softplus(-discriminator(real)).mean()).backward()
        optimizer_d.step()
        if engine.state.iteration % 5 == 0:
            optimizer_g.zero_grad()
            softplus(-discriminator(fake)).mean().backward()
            optimizer_g.step()

    scene.trainer = Engine(update)
    tips.GradientNormClipper(optimizer_g, 0.1, tag="generator", model=generator).attach(scene.trainer)
    tips.GradientValueClipper(optimizer_d, 0.1, tag="discriminator", model=discriminator).attach(scene.trainer)


def _a_body_that_stays_frozen(scene: Scene) -> None:
    tips.ParameterFreezer(scene.model, "body.*").attach(scene.trainer)
    scene.clip()


def _a_bias_in_front_of_a_frozen_normalisation_layer(scene: Scene) -> None:
    scene.model.body[0] = nn.Linear(4, 8)  # the statistics are constants, from which a bias differs
    tips.freeze_parameters(scene.model, "body.1.*")
    scene.use(scene.model.parameters())
    scene.clip(model=scene.model)


def _a_frozen_teacher(scene: Scene) -> None:
    teacher = Net().requires_grad_(False)
    scene.trainer.add_event_handler(
        Events.EPOCH_COMPLETED,
        Checkpoint({"t": scene.trainer, "m": scene.model, "o": scene.optimizer, "teacher": teacher}, _save_nothing),
    )
    scene.schedule(StepLR(scene.optimizer, 2)).detach()


def _schedules_that_end_where_they_began(scene: Scene) -> None:
    scene.schedule(CosineAnnealingWarmRestarts(scene.optimizer, 2))
    scene.use(scene.model.parameters(), torch.optim.SGD)
    scene.schedule(CyclicLR(scene.optimizer, 0.01, 0.1, step_size_up=4), OptimizerEvents.STEP_COMPLETED)


def _a_schedule_with_a_filter(scene: Scene) -> None:
    scene.schedule(CosineAnnealingLR(scene.optimizer, T_max=3), Events.EPOCH_COMPLETED(every=2))


def _gradual_unfreezing(scene: Scene) -> None:
    unfreezer = tips.GradualUnfreezer(scene.model, ["head.*", "body.1.*", "body.0.*"], optimizer=scene.optimizer)
    unfreezer.attach(scene.trainer, every=2)
    scene.clip()


def _an_optimizer_with_closures(scene: Scene) -> None:
    optimizer = torch.optim.LBFGS(scene.model.parameters(), lr=0.1, max_iter=2)
    loss_fn = nn.CrossEntropyLoss()

    def update(engine: Engine, batch: Any) -> None:
        def closure() -> Any:
            optimizer.zero_grad()
            loss = loss_fn(scene.model(batch[0]), batch[1])
            loss.backward()
            return loss

        optimizer.step(closure)

    scene.trainer = Engine(update)
    tips.SchedulerStepper(StepLR(optimizer, 2)).attach(scene.trainer)


def _truncated_backpropagation(scene: Scene) -> None:
    model = nn.RNN(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scene.trainer = create_supervised_tbptt_trainer(model, optimizer, nn.MSELoss(), tbtt_step=2)
    scene.data = [(torch.randn(4, 2, 4), torch.randn(4, 2, 3)) for _ in range(LENGTH)]
    tips.AutoClipper(optimizer, model=model).attach(scene.trainer)


RIGHT = [
    _with_everything,
    _with_ignites_handlers,
    _with_ignites_schedule_from_0,
    _with_accumulation_and_amp,
    _two_optimizers_of_one_model,
    _a_gan,
    _a_body_that_stays_frozen,
    _a_bias_in_front_of_a_frozen_normalisation_layer,
    _a_frozen_teacher,
    _schedules_that_end_where_they_began,
    _a_schedule_with_a_filter,
    _gradual_unfreezing,
    _an_optimizer_with_closures,
    _truncated_backpropagation,
]


@pytest.mark.parametrize("build", RIGHT, ids=lambda build: build.__name__.strip("_").replace("_", " "))
def test_a_right_trainer_has_no_finding(build: Callable[[Scene], None], found: list[Finding]) -> None:
    """Not before the run, with its length given or not, not at the end of an epoch, and not after the run."""
    scene = Scene()
    build(scene)
    found.extend(tips.describe_trainer(scene.trainer, max_epochs=EPOCHS, epoch_length=LENGTH).findings)
    for event in (Events.STARTED, Events.EPOCH_STARTED, Events.EPOCH_COMPLETED):
        scene.trainer.add_event_handler(event, lambda: found.extend(tips.describe_trainer(scene.trainer).findings))
    scene.run()
    assert found == []


def test_a_resumed_run_has_no_finding(found: list[Finding]) -> None:
    """The lengths in a loaded state are those of a run that is over, and say nothing about the next one."""
    first, second = Scene(), Scene()
    states = []
    for scene, epochs in ((first, 2), (second, EPOCHS)):
        scene.use(scene.model.parameters())
        stepper = scene.schedule()
        freezer = tips.ParameterFreezer(scene.model, "body.*").attach(
            scene.trainer, unfreeze=Events.EPOCH_STARTED(once=4)
        )
        parts = [scene.trainer, stepper, freezer]
        for part, state in zip(parts, states, strict=False):
            part.load_state_dict(state)
        if states:
            found.clear()  # the first run was too short for its schedule
        scene.run(epochs)
        states = [part.state_dict() for part in parts]
    assert found == []
