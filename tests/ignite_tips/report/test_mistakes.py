"""Mistakes made on purpose in a trainer, and what the report says of each."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Events
from ignite.handlers import Checkpoint, LRScheduler, TensorboardLogger
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau, StepLR

import ignite_tips as tips
from ignite_tips import OptimizerEvents
from tests.ignite_tips.report.scene import EPOCHS, Scene

Mistake = Callable[..., dict[str, Any] | None]
MISTAKES: list[Any] = []


def says(kind: str, sentence: str) -> Callable[[Mistake], Mistake]:
    """Add a mistake to the table, with the beginning of what the report says of it."""

    def add(mistake: Mistake) -> Mistake:
        name = mistake.__name__.strip("_").replace("_", " ")
        MISTAKES.append(pytest.param(mistake, kind, sentence, id=name))
        return mistake

    return add


# Parameters and optimizers.


@says(
    "no group", "no param group of Adam has head.weight, head.bias of Net, so no update changes them; add them to a gr"
)
def _a_part_of_the_model_is_in_no_group(scene: Scene, *, wrong: bool) -> None:
    scene.use(scene.model.body.parameters() if wrong else scene.model.parameters())
    scene.schedule()


@says(
    "no group", "no param group of Adam has extra.weight, extra.bias of Net, so no update changes them; add them to a"
)
def _a_layer_is_added_after_the_optimizer(scene: Scene, *, wrong: bool) -> None:
    scene.schedule()
    scene.model.extra = nn.Linear(2, 2) if wrong else nn.ReLU()


@says(
    "never stepped", "nothing called step() of SGD with the groups generator in 8 iterations; call it in the update fun"
)
def _an_optimizer_is_never_stepped(scene: Scene, *, wrong: bool) -> None:
    scene.head = head = torch.optim.SGD([{"params": scene.model.head.parameters(), "name": "generator"}], lr=0.1)
    scene.use(scene.model.body.parameters())
    tips.attach_optimizer_events(scene.trainer, head)
    if not wrong:
        scene.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: head.step())
    scene.run(1)


@says(
    "learning rate 0", "group 'head' of Adam has learning rate 0 and no schedule, so it does not train; give it a learn"
)
def _a_learning_rate_is_0(scene: Scene, *, wrong: bool) -> None:
    rules = {"body.*": {"lr": 0.1}, "head.*": {"lr": 0.0 if wrong else 0.1}}
    scene.use(tips.param_groups(scene.model, rules))
    scene.clip()


@says(
    "no gradient",
    "extra.weight, extra.bias had no gradient in 16 updates of Adam, because no loss depends on it; use it",
)
def _a_layer_is_not_used(scene: Scene, *, wrong: bool) -> None:
    scene.model.extra = nn.Linear(2, 2) if wrong else nn.ReLU()
    scene.use(scene.model.parameters())
    scene.clip()
    scene.run(2)


@says("zero gradients", "the gradient of body.0.weight, body.1.weight, body.1.bias, head.weight was 0 in all 16 upda")
def _a_part_is_multiplied_by_0(scene: Scene, *, wrong: bool) -> None:
    scene.model.factor = 0.0 if wrong else 1.0
    scene.clip()
    scene.run(2)


@says(
    "zero gradients", "GradientNormClipper of SGD found gradients of 0 in each of 16 updates; look for a detach(), a "
)
def _all_gradients_are_0(scene: Scene, *, wrong: bool) -> None:
    scene.use(scene.model.parameters(), torch.optim.SGD)
    scene.loss_fn = (lambda output, target: 0 * output.sum()) if wrong else nn.CrossEntropyLoss()
    scene.clip()
    scene.run(2)


@says(
    "unread option", "Adam does not read the option 'learning_rate' of its group backbone; its options are lr, betas, e"
)
def _an_option_of_a_group_is_misspelt(scene: Scene, *, wrong: bool) -> None:
    option = {"learning_rate" if wrong else "lr": 0.01}
    scene.use([{"params": scene.model.body.parameters(), "name": "backbone", **option}])
    scene.optimizer.add_param_group({"params": scene.model.head.parameters(), "name": "head"})
    scene.schedule(OneCycleLR(scene.optimizer, 0.1, total_steps=EPOCHS))  # keeps options of its own in the groups


@says("unread option", "Adam does not read the option 'momentum' of its group 0; its options are lr, betas, eps, wei")
def _an_option_is_of_another_optimizer(scene: Scene, *, wrong: bool) -> None:
    scene.use([{"params": scene.model.parameters()} | ({"momentum": 0.9} if wrong else {})])


# Schedules.


@says(
    "schedule length",
    "CosineAnnealingLR has T_max 2, but the run steps it 6 times; build the scheduler for the run's le",
)
def _a_schedule_is_too_short(scene: Scene, *, wrong: bool) -> None:
    scene.schedule(CosineAnnealingLR(scene.optimizer, T_max=2 if wrong else 6))


@says(
    "schedule length",
    "CosineAnnealingLR has T_max 48, but the run steps it 6 times; if it counts updates, attach(trainer",
)
def _a_schedule_of_updates_counts_epochs(scene: Scene, *, wrong: bool) -> None:
    event = Events.EPOCH_COMPLETED if wrong else OptimizerEvents.STEP_COMPLETED
    scene.schedule(CosineAnnealingLR(scene.optimizer, T_max=48), event)


@says(
    "schedule length",
    "CosineAnnealingLR has T_max 6, but the run steps it 48 times; if it counts epochs, attach(trainer)",
)
def _a_schedule_of_epochs_counts_updates(scene: Scene, *, wrong: bool) -> None:
    event = OptimizerEvents.STEP_COMPLETED if wrong else Events.EPOCH_COMPLETED
    scene.schedule(CosineAnnealingLR(scene.optimizer, T_max=6), event)
    scene.run()


@says(
    "schedule length",
    "OneCycleLR has total_steps 5, but the run steps it 6 times; build the scheduler for the run's len",
)
def _a_schedule_ends_with_an_error(scene: Scene, *, wrong: bool) -> None:
    scene.schedule(OneCycleLR(scene.optimizer, 0.1, total_steps=5 if wrong else 6))


@says(
    "schedule without effect", "StepLR changes no learning rate in the 6 steps of the run; give it the settings for a "
)
def _a_schedule_will_change_nothing(scene: Scene, *, wrong: bool) -> None:
    scene.schedule(StepLR(scene.optimizer, step_size=30 if wrong else 2))


@says(
    "schedule without effect", "StepLR changes no learning rate in the 6 steps of the run; give it the settings for a "
)
def _a_schedule_changed_nothing(scene: Scene, *, wrong: bool) -> None:
    scene.schedule(StepLR(scene.optimizer, step_size=30 if wrong else 2))
    scene.run()


@says(
    "conflict", "SchedulerStepper steps a second StepLR of the trainer's Adam, and both change its learning rates; if "
)
def _a_cell_with_a_schedule_was_run_twice(scene: Scene, *, wrong: bool) -> None:
    first = scene.schedule(StepLR(scene.optimizer, step_size=2))
    if not wrong:
        first.detach()
    scene.schedule(StepLR(scene.optimizer, step_size=2))


@says(
    "stepped elsewhere", "SchedulerStepper must be the only one to step its StepLR, but other code also steps it; rem"
)
def _a_schedule_is_stepped_by_hand_too(scene: Scene, *, wrong: bool) -> None:
    scheduler = StepLR(scene.optimizer, step_size=2)
    scene.schedule(scheduler)
    if wrong:
        scene.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: scheduler.step())
    scene.run()


@says(
    "conflict", "SchedulerStepper must be the only one to set the learning rates of its Adam, but the trainer also has"
)
def _ignites_scheduler_overwrites_the_learning_rates(scene: Scene, *, wrong: bool) -> None:
    scene.schedule()
    if wrong:
        scene.trainer.add_event_handler(Events.EPOCH_COMPLETED, LRScheduler(StepLR(scene.optimizer, step_size=2)))


@says(
    "no validation", "PlateauStepper counted no validation in this run; run the evaluator in a handler of the trainer, "
)
def _a_plateau_without_validation(scene: Scene, *, wrong: bool) -> None:
    tips.PlateauStepper(ReduceLROnPlateau(scene.optimizer)).attach(scene.trainer, scene.evaluator)
    if not wrong:
        scene.validate()
    scene.run()


# Freezing.


@says(
    "never unfrozen",
    "ParameterFreezer unfreezes body.* after the end of the run of 6 epochs, so it never trains; unfre",
)
def _a_part_is_unfrozen_after_the_end(scene: Scene, *, wrong: bool) -> None:
    freezer = tips.ParameterFreezer(scene.model, "body.*", optimizer=scene.optimizer)
    freezer.attach(scene.trainer, unfreeze=Events.EPOCH_STARTED(once=10 if wrong else 3))


@says(
    "never unfrozen", "ParameterFreezer has an optimizer to check that body.* can be unfrozen, but no event that unfr"
)
def _the_event_of_unfreezing_is_forgotten(scene: Scene, *, wrong: bool) -> None:
    freezer = tips.ParameterFreezer(scene.model, "body.*", optimizer=scene.optimizer)
    freezer.attach(scene.trainer, unfreeze=None if wrong else Events.EPOCH_STARTED(once=3))


@says(
    "never unfrozen",
    "GradualUnfreezer unfreezes body.* after the end of the run of 6 epochs, so it never trains; unfre",
)
def _a_stage_comes_after_the_end(scene: Scene, *, wrong: bool) -> None:
    tips.GradualUnfreezer(scene.model, ["head.*", "body.*"]).attach(scene.trainer, every=6 if wrong else 3)


@says(
    "never unfrozen",
    "ParameterFreezer does not unfreeze body.*, because other code froze it before; call requires_grad",
)
def _a_part_to_unfreeze_was_frozen_by_hand(scene: Scene, *, wrong: bool) -> None:
    scene.model.body.requires_grad_(not wrong)
    tips.ParameterFreezer(scene.model, "body.*").attach(scene.trainer, unfreeze=Events.EPOCH_STARTED(once=3))


@says(
    "statistics not frozen",
    "body.1 (BatchNorm1d) is frozen in its weights, but its running statistics still change in ",
)
def _a_normalisation_layer_is_frozen_by_hand(scene: Scene, *, wrong: bool) -> None:
    if wrong:
        scene.model.body.requires_grad_(False)
    else:
        tips.freeze_parameters(scene.model, "body.*")
    scene.clip()


@says("another model", "ParameterFreezer freezes parts of a Net of which no optimizer has a parameter, so no update")
def _a_freezer_has_another_instance_of_the_model(scene: Scene, *, wrong: bool) -> None:
    tips.ParameterFreezer(Scene().model if wrong else scene.model, "body.*").attach(scene.trainer)


@says(
    "unseen statistics",
    "ParameterFreezer freezes body.1 (BatchNorm1d) with running statistics that never saw data, so it n",
)
def _statistics_are_frozen_before_they_saw_data(scene: Scene, *, wrong: bool) -> None:
    if wrong:
        scene.model.body[1].reset_running_stats()
    tips.ParameterFreezer(scene.model, "body.*").attach(scene.trainer)


@says(
    "unseen statistics", "GradualUnfreezer freezes body.1 (BatchNorm1d) with running statistics that never saw data, "
)
def _statistics_that_saw_no_data_after_a_run(scene: Scene, *, wrong: bool) -> None:
    if wrong:
        scene.model.body[1].reset_running_stats()
    tips.GradualUnfreezer(scene.model, ["head.*", "body.*"]).attach(scene.trainer, every=4)
    scene.run(2)


@says(
    "useless bias", "body.0.bias has no effect, because body.1 (BatchNorm1d) subtracts it again; its gradient is roundi"
)
def _a_bias_in_front_of_a_normalisation_layer(scene: Scene, *, wrong: bool) -> None:
    scene.model.body[0] = nn.Linear(4, 8, bias=wrong)
    scene.use(scene.model.parameters())


@says(
    "useless bias",
    "body.0.bias has no effect, because body.1 (BatchNorm1d) subtracts it again; its gradient is rounding noise; cr",
)
def _a_bias_in_front_of_a_normalisation_layer_of_sgd(scene: Scene, *, wrong: bool) -> None:
    scene.model.body[0] = nn.Linear(4, 8, bias=wrong)
    scene.use(scene.model.parameters(), torch.optim.SGD)


# Clipping.


@says(
    "always clips",
    "GradientNormClipper of Adam clipped each of 48 updates, because max_norm=0.0001 is far below the",
)
def _a_clipper_always_clips(scene: Scene, *, wrong: bool) -> None:
    scene.clip(1e-4 if wrong else 0.5)
    scene.run()


@says(
    "never clips",
    "GradientNormClipper of Adam clipped none of 48 updates, because max_norm=1000.0 is far above their l",
)
def _a_clipper_never_clips(scene: Scene, *, wrong: bool) -> None:
    scene.clip(1000.0 if wrong else 0.5)
    scene.run()


@says("clipped before", "GradientNormClipper of Adam clipped none of 48 updates, because most of them had a norm of ")
def _other_code_clips_before(scene: Scene, *, wrong: bool) -> None:
    def clip_by_hand(*_: Any) -> None:
        torch.nn.utils.clip_grad_norm_(scene.model.parameters(), 0.01)

    if wrong:
        scene.optimizer.register_step_pre_hook(clip_by_hand)
    scene.clip(0.5 if not wrong else 1.0)
    scene.run()


@says(
    "skipped updates",
    "GradientNormClipper of Adam skipped 12 of 48 updates because a gradient was not finite; lower th",
)
def _many_updates_are_skipped(scene: Scene, *, wrong: bool) -> None:
    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        is_bad = wrong and scene.trainer.state.iteration % 4 == 0
        return nn.functional.cross_entropy(output, target) * (float("nan") if is_bad else 1.0)

    scene.loss_fn = loss
    scene.clip(on_nonfinite="skip")
    scene.run()


@says(
    "conflict", "GradientNormClipper clips the trainer's Adam twice, both times with max_norm=0.5; detach() one of the"
)
def _a_cell_with_a_clipper_was_run_twice(scene: Scene, *, wrong: bool) -> None:
    first = scene.clip()
    if not wrong:
        first.detach()
    scene.clip()


@says(
    "conflict", "GradientNormClipper of one SGD writes the metric 'grad_norm', as does another optimizer's GradientNor"
)
def _two_clippers_write_one_metric(scene: Scene, *, wrong: bool) -> None:
    scene.use(scene.model.body.parameters())
    head = torch.optim.SGD(scene.model.head.parameters(), lr=0.1)
    scene.clip()
    tips.GradientNormClipper(head, 0.5, tag=None if wrong else "head").attach(scene.trainer)


# Checkpoints and loggers.


@says(
    "not saved", "to_save lacks SchedulerStepper(CosineAnnealingLR(T_max=6)), so a resumed run starts without that stat"
)
def _a_handler_is_not_saved(scene: Scene, *, wrong: bool) -> dict[str, Any]:
    stepper = scene.schedule()
    to_save = {"trainer": scene.trainer, "model": scene.model, "optimizer": scene.optimizer, "stepper": stepper}
    if wrong:
        del to_save["stepper"]
    return {"to_save": to_save}


@says(
    "not saved", "to_save lacks Adam and GradientNormClipper(Adam, max_norm=0.5), so a resumed run starts without that "
)
def _a_checkpoint_lacks_the_optimizer(scene: Scene, *, wrong: bool) -> None:
    clipper = scene.clip()
    to_save = {"trainer": scene.trainer, "model": scene.model, "optimizer": scene.optimizer, "clipper": clipper}
    if wrong:
        del to_save["optimizer"], to_save["clipper"]
    saver: Any = lambda *_: None  # noqa: E731  # nothing is saved
    scene.trainer.add_event_handler(Events.EPOCH_COMPLETED, Checkpoint(to_save, saver))


@says(
    "logger too early", "OutputHandler of TensorboardLogger reads grad_norm at STEP_STARTED before GradientNormClipper "
)
def _a_logger_comes_before_the_clipper(scene: Scene, *, wrong: bool) -> None:
    tips.attach_optimizer_events(scene.trainer, scene.optimizer)
    scene.clip() if not wrong else None
    _log(scene, OptimizerEvents.STEP_STARTED, "grad_norm")
    scene.clip() if wrong else None


@says(
    "logger too early", "OutputHandler of TensorboardLogger reads lr/0 at STEP_STARTED before LearningRateLogger sets i"
)
def _a_logger_of_a_metric_that_is_set_last(scene: Scene, *, wrong: bool) -> None:
    tips.LearningRateLogger(scene.optimizer).attach(scene.trainer)
    _log(scene, OptimizerEvents.STEP_STARTED if wrong else OptimizerEvents.STEP_COMPLETED, "lr/0")


@says(
    "logger too late", "LearningRateLogger(Adam) was attached at iteration 8 of the run, so what was before is missing;"
)
def _a_logger_joins_a_run_that_is_under_way(scene: Scene, *, wrong: bool) -> None:
    logger = tips.LearningRateLogger(scene.optimizer)
    event = Events.EPOCH_STARTED(once=2) if wrong else Events.STARTED
    scene.trainer.add_event_handler(event, lambda: logger.attach(scene.trainer))
    scene.run(2)


@says(
    "other tag", "RunAnnotator looks for the metric 'grad_norm', but the clipper of its Adam writes 'head/grad_norm'; g"
)
def _an_annotator_has_another_tag_than_the_clipper(scene: Scene, *, wrong: bool) -> None:
    scene.clip(tag="head")
    tips.RunAnnotator(scene.model, scene.optimizer, tag=None if wrong else "head").attach(scene.trainer, _logger())


def _logger() -> TensorboardLogger:
    logger: Any = TensorboardLogger.__new__(TensorboardLogger)
    logger.writer = nn.Identity()  # stands for an open writer
    return logger


def _log(scene: Scene, event: Any, metric: str) -> None:
    _logger().attach_output_handler(scene.trainer, event, tag="train", metric_names=[metric])


@pytest.mark.parametrize(("mistake", "kind", "sentence"), MISTAKES)
def test_a_mistake_is_found_and_its_remedy_ends_it(mistake: Mistake, kind: str, sentence: str) -> None:
    """The report has exactly this finding, with a remedy; and none where the same is done right."""
    wrong = Scene()
    found = wrong.report(**mistake(wrong, wrong=True) or {}).findings
    assert [finding.kind for finding in found] == [kind], found
    assert found[0].text.startswith(sentence)
    assert "; " in found[0].text
    right = Scene()
    assert right.report(**mistake(right, wrong=False) or {}).findings == ()
