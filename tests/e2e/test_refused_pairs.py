"""Pairs that cannot be correct: each gets a message, from us or from torch, and never silently wrong weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events, create_supervised_trainer
from ignite.handlers.param_scheduler import CosineAnnealingScheduler
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau, StepLR

import ignite_tips as tips

PER_UPDATE = tips.OptimizerEvents.STEP_COMPLETED


class Job:
    """A model, its optimizer and a trainer of four batches."""

    def __init__(self) -> None:
        self.model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.trainer = Engine(self.update)
        self.trainer.logger.disabled = True
        self.scaler = GradScaler("cpu", enabled=False)

    def update(self, engine: Engine, batch: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        self.scaler.scale(self.model(batch).mean()).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def run(self, epochs: int = 2) -> None:
        self.trainer.run([torch.ones(2, 3)] * 4, max_epochs=epochs)


def _lbfgs(job: Job) -> None:
    tips.GradientNormClipper(torch.optim.LBFGS(job.model.parameters()), 1.0).attach(job.trainer)


def _closure_evaluated_again(job: Job) -> None:
    class Twice(torch.optim.SGD):
        def step(self, closure: Callable[[], Any]) -> None:  # type: ignore[override]
            closure()
            closure()

    optimizer = Twice(job.model.parameters(), lr=0.1)
    job.trainer = Engine(lambda engine, batch: optimizer.step(lambda: job.model(batch).mean().backward()))
    job.trainer.logger.disabled = True
    tips.GradientNormClipper(optimizer, 1.0).attach(job.trainer)
    job.run()


def _closure_under_grad_scaler(job: Job) -> None:
    scaler = GradScaler("cpu")
    tips.GradientNormClipper(job.optimizer, 1.0).attach(job.trainer)
    scaler.step(job.optimizer, closure=lambda: None)


def _fp16_weights_under_grad_scaler(job: Job) -> None:
    job.model.half()
    job.scaler = GradScaler("cpu")
    tips.GradientNormClipper(job.optimizer, 1.0).attach(job.trainer)
    job.trainer.run([torch.ones(2, 3, dtype=torch.float16)])


def _scaler_without_amp(job: Job) -> None:
    create_supervised_trainer(job.model, job.optimizer, nn.MSELoss(), scaler=True)


def _plateau_and_one_cycle(job: Job) -> None:
    tips.PlateauStepper(ReduceLROnPlateau(job.optimizer)).attach(job.trainer, Engine(lambda engine, batch: None))
    tips.SchedulerStepper(OneCycleLR(job.optimizer, 0.1, total_steps=8)).attach(job.trainer, PER_UPDATE)


def _step_and_lambda(job: Job) -> None:
    tips.SchedulerStepper(LambdaLR(job.optimizer, lambda step: min(1.0, step / 4))).attach(job.trainer, PER_UPDATE)
    tips.SchedulerStepper(StepLR(job.optimizer, 2)).attach(job.trainer)


def _one_scheduler_twice(job: Job) -> None:
    scheduler = StepLR(job.optimizer, 2)
    tips.SchedulerStepper(scheduler).attach(job.trainer)
    tips.SchedulerStepper(scheduler).attach(job.trainer, PER_UPDATE)


def _a_cell_run_twice(job: Job) -> None:
    tips.SchedulerStepper(StepLR(job.optimizer, 2)).attach(job.trainer)
    tips.SchedulerStepper(StepLR(job.optimizer, 2)).attach(job.trainer)
    job.run()


def _ignites_scheduler(job: Job) -> None:
    tips.SchedulerStepper(StepLR(job.optimizer, 2)).attach(job.trainer)
    job.trainer.add_event_handler(Events.ITERATION_STARTED, CosineAnnealingScheduler(job.optimizer, "lr", 1, 0, 8))
    job.run()


def _too_short(job: Job) -> None:
    tips.SchedulerStepper(OneCycleLR(job.optimizer, 0.1, total_steps=3)).attach(job.trainer)
    job.run(4)


def _plateau_as_a_schedule(job: Job) -> None:
    tips.SchedulerStepper(ReduceLROnPlateau(job.optimizer))


def _scheduler_of_another_optimizer(job: Job) -> None:
    tips.SchedulerStepper(StepLR(Job().optimizer, 2)).attach(job.trainer)
    job.run()


def _clipper_of_another_optimizer(job: Job) -> None:
    tips.GradientNormClipper(Job().optimizer, 1.0).attach(job.trainer)
    job.run()


def _clipper_of_stale_parameters(job: Job) -> None:
    tips.GradientNormClipper(job.optimizer, 1.0).attach(job.trainer)
    for module in job.model:  # as fully_shard does
        module.weight, module.bias = nn.Parameter(module.weight.detach()), nn.Parameter(module.bias.detach())
    job.run()


def _two_clippers(job: Job) -> None:
    tips.GradientNormClipper(job.optimizer, 1.0).attach(job.trainer)
    tips.GradientNormClipper(job.optimizer, 5.0).attach(job.trainer)
    job.run()


def _clippers_of_two_optimizers(job: Job) -> None:
    tips.GradientNormClipper(job.optimizer, 1.0).attach(job.trainer)
    tips.GradientNormClipper(Job().optimizer, 1.0).attach(job.trainer)
    job.run()


def _group_added_later(job: Job) -> None:
    tips.SchedulerStepper(LambdaLR(job.optimizer, lambda step: 1.0)).attach(job.trainer)
    job.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    job.run()


def _two_freezers(job: Job) -> None:
    tips.ParameterFreezer(job.model, "0.*").attach(job.trainer)
    tips.ParameterFreezer(job.model, "*.bias").attach(job.trainer)


def _freezer_and_gradual_unfreezer(job: Job) -> None:
    tips.ParameterFreezer(job.model, "0.weight").attach(job.trainer)
    tips.GradualUnfreezer(job.model, ["1.*", "0.*"]).attach(job.trainer)


def _unfreezing_without_a_group(job: Job) -> None:
    only_head = torch.optim.SGD(job.model[1].parameters(), lr=0.1)
    freezer = tips.ParameterFreezer(job.model, "0.*", optimizer=only_head)
    freezer.attach(job.trainer, unfreeze=Events.EPOCH_STARTED(once=2))


def _freezer_of_a_script(job: Job) -> None:
    tips.ParameterFreezer(torch.jit.script(job.model), "0.*").attach(job.trainer)


def _two_lr_loggers(job: Job) -> None:
    tips.LearningRateLogger(job.optimizer).attach(job.trainer)
    tips.LearningRateLogger(Job().optimizer).attach(job.trainer)


def _lr_logger_of_another_optimizer(job: Job) -> None:
    tips.LearningRateLogger(Job().optimizer).attach(job.trainer)
    job.run()


def _loaded_before_attached(job: Job) -> None:
    job.trainer.load_state_dict({"epoch_length": 4, "max_epochs": 4, "iteration": 4})
    tips.GradientNormClipper(job.optimizer, 1.0).attach(job.trainer)


REFUSED: dict[Callable[[Job], None], str] = {
    _lbfgs: (
        "TypeError: optimizer must compute its gradients once in an update, got LBFGS, which evaluates its "
        "closure several times; clip in its closure with clip_gradient_norm() instead"
    ),
    _closure_evaluated_again: (
        "RuntimeError: a closure must be evaluated once in an update with OptimizerEvents, but Twice evaluated it "
        "again; detach the handlers that act on its updates"
    ),
    _closure_under_grad_scaler: "RuntimeError: Closure use is not currently supported if GradScaler is enabled.",
    _fp16_weights_under_grad_scaler: "ValueError: Attempting to unscale FP16 gradients.",
    _scaler_without_amp: "ValueError: scaler argument is True, but amp_mode is None. Consider using amp_mode='amp'.",
    _plateau_and_one_cycle: (
        "ValueError: schedulers of one optimizer must not undo each other, got ReduceLROnPlateau and OneCycleLR, "
        "which undoes the reductions in its next step; use one that continues from the current learning rate "
        "(LinearLR, ExponentialLR, StepLR, CosineAnnealingLR), or end it with a filter on its event"
    ),
    _step_and_lambda: (
        "ValueError: schedulers of one optimizer must not undo each other, got StepLR and LambdaLR, which undoes the "
        "steps in its next step; use one that continues from the current learning rate (LinearLR, ExponentialLR, "
        "StepLR, CosineAnnealingLR), or end it with a filter on its event"
    ),
    _one_scheduler_twice: (
        "ValueError: scheduler must be stepped by one handler, but another handler of the trainer already steps this "
        "StepLR; to step it at several events, use attach(trainer, one | other)"
    ),
    _a_cell_run_twice: (
        "UserWarning: SchedulerStepper steps a second StepLR of the trainer's SGD, and both change its learning "
        "rates; if only one is intended, for example after running a notebook cell twice, detach() one of the two or "
        "create a new trainer"
    ),
    _ignites_scheduler: (
        "ValueError: SchedulerStepper must be the only one to set the learning rates of its SGD, but the trainer also"
        " has Ignite's CosineAnnealingScheduler, which overwrites them in every call; remove one of the two, or end "
        "it with a filter on its event"
    ),
    _too_short: (
        "ValueError: OneCycleLR has total_steps 3, but the run steps it 4 times; build the scheduler for the "
        "run's length"
    ),
    _plateau_as_a_schedule: (
        "TypeError: scheduler must be stepped without a metric, got ReduceLROnPlateau; use PlateauStepper, which "
        "steps it with a validation metric"
    ),
    _scheduler_of_another_optimizer: (
        "UserWarning: SchedulerStepper found no update of its scheduler's SGD in 4 iterations; if the trainer steps "
        "another optimizer, schedule that; if another engine makes the updates, attach the handler to that engine"
    ),
    _clipper_of_another_optimizer: (
        "UserWarning: GradientNormClipper found no update of its SGD in 4 iterations; if the trainer steps another "
        "optimizer, clip that; if another engine makes the updates, attach the handler to that engine"
    ),
    _clipper_of_stale_parameters: (
        "UserWarning: GradientNormClipper found no gradient for its SGD in 4 iterations; if its parameters are no "
        "longer the model's, create it from the model's parameters, after fully_shard, which replaces them"
    ),
    _two_clippers: (
        "UserWarning: GradientNormClipper clips the trainer's SGD twice, with max_norm=1.0 and then with "
        "max_norm=5.0, and the smaller threshold wins; detach() one of the two, create a new trainer, or give each a "
        "tag=... if both are intended"
    ),
    _clippers_of_two_optimizers: (
        "UserWarning: GradientNormClipper of one SGD writes the metric 'grad_norm', as does another optimizer's "
        "GradientNormClipper; give each a tag=..."
    ),
    _group_added_later: (
        "ValueError: LambdaLR was built for 1 param groups, but its optimizer has 2; make all groups up front"
    ),
    _two_freezers: (
        "ValueError: parameter '0.bias' must be frozen by one handler, but an attached ParameterFreezer already "
        "freezes it; use patterns that do not overlap, or detach that handler"
    ),
    _freezer_and_gradual_unfreezer: (
        "ValueError: parameter '0.weight' must be frozen by one handler, but an attached ParameterFreezer already "
        "freezes it; use patterns that do not overlap, or detach that handler"
    ),
    _unfreezing_without_a_group: (
        "ValueError: optimizer must have a group for each parameter to be unfrozen, but has none for: "
        "0.weight, 0.bias; make every group up front, as param_groups(model, ...) does"
    ),
    _freezer_of_a_script: (
        "TypeError: model must not be a ScriptModule, whose modules take no changes; give the module that was scripted,"
        " whose parameters it shares"
    ),
    _lr_logger_of_another_optimizer: (
        "UserWarning: LearningRateLogger found no update of its SGD in 4 iterations, so there is no learning rate in "
        "use to log yet; if the trainer steps another optimizer, log that; if another engine makes the updates, attach "
        "the handler to that engine"
    ),
    _two_lr_loggers: (
        "ValueError: each LearningRateLogger must write its own names, but another one attached to the trainer "
        "already writes 'lr/0' to the trainer's metrics; give one of the two a tag=..., or detach() the first"
    ),
    _loaded_before_attached: (
        "RuntimeError: the trainer's state must be loaded after its handlers are attached, but it is at iteration 4 "
        "already and its count of updates is lost; attach first, then load"
    ),
}


@pytest.mark.parametrize("pair", REFUSED, ids=lambda pair: pair.__name__.strip("_"))
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_pair_is_refused(pair: Callable[[Job], None]) -> None:
    """With exactly this sentence."""
    with pytest.raises(Exception) as caught:  # noqa: PT011  # its kind and text are compared whole
        pair(Job())
    assert f"{caught.type.__name__}: {caught.value}" == REFUSED[pair]


def test_the_page_on_combinations_has_each_sentence() -> None:
    """Each sentence is on the page, up to its remedy."""
    page = (Path(__file__).parents[2] / "docs" / "combinations.md").read_text().replace("\\", "")
    for sentence in REFUSED.values():
        assert f" | {sentence.split('; ')[0]} |" in page
