"""What a report contains, before, during and after a run; that asking for it changes nothing."""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events, create_supervised_trainer
from ignite.handlers import Checkpoint, ProgressBar
from ignite.metrics import RunningAverage
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau, StepLR

import ignite_tips as tips
from ignite_tips import OptimizerEvents
from ignite_tips.clipping.clip_record import ClipRecord
from tests.ignite_tips.report.scene import EPOCHS, LENGTH, Scene
from tests.ignite_tips.test_contract import TABLE, Job
from tests.support import needs_max_iters


def _note(engine: Engine) -> None:
    """Do nothing, as a user's handler."""


class _Own:
    def method(self, engine: Engine) -> None:
        """Do nothing, as a user's method."""


def test_the_groups_of_each_optimizer() -> None:
    """Name, learning rate, size, what is frozen, dtypes and devices; updates once there are any."""
    scene = Scene()
    scene.model.head.double()
    rules = {"body.*": {"lr": 0.01}, "head.*": {"lr": 0.1}}
    scene.use(tips.param_groups(scene.model, rules))
    scene.model.body[0].requires_grad_(False)
    scene.clip()
    (optimizer,) = scene.report().optimizers
    assert (optimizer.name, optimizer.updates) == ("Adam", 0)
    body, head = optimizer.groups
    assert (body.name, body.lr, body.parameters, body.tensors) == ("body", 0.01, 48, 3)
    assert (body.dtypes, body.devices, body.frozen) == (("float32",), ("cpu",), 32 / 48)
    assert (head.name, head.lr, head.parameters, head.frozen, head.dtypes) == ("head", 0.1, 18, 0.0, ("float64",))


def test_optimizers_are_those_that_are_known() -> None:
    """Of handlers, of to_save and of a schedule alone; one that no handler counts has unknown updates."""
    scene = Scene()
    head = torch.optim.SGD(scene.model.head.parameters(), lr=0.1)
    tips.PlateauStepper(ReduceLROnPlateau(scene.optimizer)).attach(scene.trainer, scene.evaluator)
    found = scene.report(to_save={"head": head}).optimizers
    assert [(optimizer.name, optimizer.updates) for optimizer in found] == [("Adam", None), ("SGD", None)]


def test_handlers_are_listed_at_their_events_in_the_order_in_which_they_act() -> None:
    """Ours by their repr and only where they act, Ignite's and the user's by name."""
    scene = Scene()
    scene.trainer.add_event_handler(Events.EPOCH_COMPLETED, _note)
    scene.schedule()
    scene.trainer.add_event_handler(Events.EPOCH_COMPLETED(every=2), _Own().method)
    scene.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: None)
    ProgressBar().attach(scene.trainer, ["grad_norm"])
    RunningAverage(output_transform=lambda loss: loss).attach(scene.trainer, "loss")
    tips.LearningRateLogger(scene.optimizer).attach(scene.trainer)
    scene.clip()
    tips.ParameterFreezer(scene.model, "body.*").attach(scene.trainer, unfreeze=Events.EPOCH_STARTED(once=3))
    events = scene.report().events["trainer"]
    freezer = "ParameterFreezer(Net, patterns='body.*')"
    assert events["STARTED"] == ["RunningAverage.started", freezer]
    assert events["STEP_STARTED"] == ["LearningRateLogger(Adam)", "GradientNormClipper(Adam, max_norm=0.5)"]
    step, own, function, *_ = events["EPOCH_COMPLETED"][1:]
    assert events["EPOCH_COMPLETED"][0] == "_note"
    assert (step, own) == ("SchedulerStepper(CosineAnnealingLR(T_max=6))", "_Own.method")
    assert re.fullmatch(r"lambda in test_describe\.py:\d+", function)
    assert events["ITERATION_COMPLETED"][0] == "_OutputHandler of ProgressBar"
    assert list(events)[:2] == ["STARTED", "EPOCH_STARTED"]
    assert list(events).index("STEP_STARTED") < list(events).index("ITERATION_COMPLETED")


def test_handlers_of_another_engine_are_listed_there() -> None:
    """A PlateauStepper acts when the evaluator completes."""
    scene = Scene()
    tips.PlateauStepper(ReduceLROnPlateau(scene.optimizer)).attach(scene.trainer, scene.evaluator)
    events = scene.report().events
    assert events["trainer"] == {}
    assert events["evaluator"]["COMPLETED"] == ["PlateauStepper(ReduceLROnPlateau)"]
    assert events["evaluator"]["ITERATION_COMPLETED"] == ["Loss.iteration_completed"]  # decorated by Ignite
    assert events["evaluator"]["EPOCH_COMPLETED"] == ["Loss.completed"]


@pytest.mark.parametrize("name", TABLE)
def test_every_handler_is_in_the_report(name: str, tmp_path: Path) -> None:
    """Each public handler has a role, by which the report knows where it acts; detached, it is gone."""
    job = Job(str(tmp_path))
    handler = TABLE[name].build(job)
    TABLE[name].attach(handler, job)

    def shown() -> list[str]:
        engines = tips.describe_trainer(job.trainer).events.values()
        return [called for events in engines for names in events.values() for called in names]

    assert repr(handler) in shown()
    handler.detach()
    assert repr(handler) not in shown()


def test_learning_rates_at_three_times() -> None:
    """Those of the hand-written loop: of the first update, of one in the middle, and of the last."""
    scene = Scene()
    scene.use([{"params": scene.model.body.parameters(), "name": "body"}, {"params": scene.model.head.parameters()}])
    scene.schedule()
    weight = nn.Parameter(torch.ones(1))
    reference = torch.optim.SGD([weight], lr=0.01)
    scheduler, lrs = CosineAnnealingLR(reference, T_max=EPOCHS), []
    for _ in range(EPOCHS):
        lrs.append(reference.param_groups[0]["lr"])
        reference.step()
        scheduler.step()
    expected = (lrs[0], lrs[EPOCHS // 2], lrs[-1])
    (schedule,) = scene.report().schedules
    assert schedule.groups == ("body", "1")
    assert schedule.lrs == (expected, expected)
    scene.run()
    (schedule,) = scene.report().schedules
    assert schedule.lrs[0] == (lrs[0], None, scene.optimizer.param_groups[0]["lr"])


def test_learning_rates_of_a_schedule_of_updates() -> None:
    """Ignite's own update function says in how many iterations it makes one."""
    scene = Scene()
    scene.schedule(StepLR(scene.optimizer, 20), OptimizerEvents.STEP_COMPLETED)
    report = scene.report()
    assert [round(lr or 0, 5) for lr in report.schedules[0].lrs[0]] == [0.01, 0.001, 0.0001]
    assert report.handlers[0].facts == {"steps": "0 of 48"}
    seen = []
    scene.trainer.add_event_handler(Events.EPOCH_COMPLETED(once=3), lambda: seen.append(scene.report()))
    scene.run()
    assert seen[0].handlers[0].facts == {"steps": "24 of 48"}


def test_the_updates_of_another_function_are_known_by_their_pace() -> None:
    """After the first epoch; before, nothing is said that depends on their number."""
    scene = Scene()

    def update(engine: Engine, batch: Any) -> None:
        nn.functional.cross_entropy(scene.model(batch[0]), batch[1]).backward()
        if engine.state.iteration % 3 == 0:
            scene.optimizer.step()

    scene.trainer = Engine(update)
    scene.schedule(CosineAnnealingLR(scene.optimizer, T_max=EPOCHS * LENGTH), OptimizerEvents.STEP_COMPLETED)
    assert (scene.report().schedules, scene.report().findings) == ((), ())
    seen = []
    every = Events.ITERATION_COMPLETED(once=[LENGTH - 1, LENGTH, 2 * LENGTH])
    scene.trainer.add_event_handler(every, lambda: seen.append(scene.report()))
    scene.run()
    assert [report.handlers[0].facts["steps"] for report in seen] == ["2", "2 of 12", "5 of 15"]


def test_a_filter_on_the_updates_counts_those_of_the_scheduler() -> None:
    """Every second of 16 updates, with an accumulation of 3."""
    scene = Scene()
    scene.trainer = create_supervised_trainer(
        scene.model, scene.optimizer, scene.loss_fn, gradient_accumulation_steps=3
    )
    scene.schedule(StepLR(scene.optimizer, 4), OptimizerEvents.STEP_COMPLETED(every=2))
    assert scene.report().handlers[0].facts == {"steps": "0 of 8"}
    scene.run()
    assert scene.report().handlers[0].facts == {"steps": "8 of 8"}


def test_learning_rates_are_unknown_without_the_length_of_the_run() -> None:
    """And for an event with a filter of the user's: a report does not guess."""
    scene = Scene()
    stepper = scene.schedule()
    assert tips.describe_trainer(scene.trainer).schedules == ()
    stepper.attach(scene.trainer, Events.EPOCH_COMPLETED(event_filter=lambda engine, epoch: epoch != 2))
    assert scene.report().schedules == ()
    assert scene.report().handlers[0].facts == {"steps": "0"}
    stepper.attach(scene.trainer, Events.EPOCH_COMPLETED(every=2))
    assert scene.report().handlers[0].facts == {"steps": "0 of 3"}


@needs_max_iters
def test_given_lengths_replace_those_of_the_trainer() -> None:
    """Also where its last run was limited to a number of iterations."""
    scene = Scene()
    scene.schedule()
    with warnings.catch_warnings(action="ignore"):  # of a schedule that is longer
        scene.trainer.run(scene.data, max_iters=LENGTH)
    assert str(tips.describe_trainer(scene.trainer)).startswith("Trainer: 8 iterations; epoch 1, iteration 8")
    assert scene.report().handlers[0].facts == {"steps": "1 of 6"}
    assert scene.report(max_epochs=9).run["max_epochs"] == 9


def test_a_very_long_run_is_not_simulated() -> None:
    """A million steps would take ten seconds."""
    scene = Scene()
    scene.schedule(CosineAnnealingLR(scene.optimizer, T_max=1_000_000), OptimizerEvents.STEP_COMPLETED)
    assert scene.report(max_epochs=1000, epoch_length=1000).schedules == ()


def test_what_is_saved_and_what_is_missing() -> None:
    """A Checkpoint with the trainer in it tells; a to_save that is given comes first."""
    scene = Scene()
    clipper = scene.clip()
    assert scene.report().saved is None
    best = Checkpoint({"model": scene.model}, lambda *_: None)  # type: ignore[arg-type]  # nothing is saved
    whole = Checkpoint({"trainer": scene.trainer, "model": scene.model}, lambda *_: None)  # type: ignore[arg-type]
    scene.trainer.add_event_handler(Events.EPOCH_COMPLETED, best)
    scene.trainer.add_event_handler(Events.EPOCH_COMPLETED, whole)
    report = scene.report()
    assert report.saved == {"trainer": "Engine", "model": "Net"}
    assert report.not_saved == ("Adam", "GradientNormClipper(Adam, max_norm=0.5)")
    given = {"t": scene.trainer, "m": nn.DataParallel(scene.model), "o": scene.optimizer, "c": clipper}
    assert scene.report(to_save=given).not_saved == ()


def test_facts_of_a_run() -> None:
    """Clips, steps, validations and what is frozen, as the handlers count them."""
    scene = Scene()
    scene.clip(0.3, on_nonfinite="skip")
    scene.schedule()
    tips.GradualUnfreezer(scene.model, ["head.*", "body.*"]).attach(scene.trainer, every=6)
    scene.run()
    clipper, stepper, unfreezer = (each.facts for each in scene.report().handlers)
    assert re.fullmatch(r"\d+ of 48 updates", clipper["clipped"])
    assert stepper == {"steps": "6 of 6"}
    assert unfreezer == {"stages": "2, one more every 6 epochs", "frozen now": "3 of 5 parameters"}


def test_a_clipper_remembers_its_last_thousand_updates() -> None:
    """And counts afresh in each run, whatever it had skipped before."""
    record = ClipRecord()
    record.start_run(skipped=7)
    for _ in range(1500):
        record.keep(torch.tensor(2.0), 0.5)
    facts = record.report("clipper", "max_norm=1", 1.0, skipped=7).facts
    assert facts == {"clipped": "1000 of the last 1000 updates"}
    record.start_run(skipped=8)
    record.keep(1.0, 1.0)
    assert record.report("clipper", "max_norm=1", 1.0, skipped=9).facts == {
        "clipped": "0 of 1 update",
        "skipped": "1 of 2 updates",
    }


def test_the_dict_is_plain_and_complete() -> None:
    """It survives JSON, and has every attribute of the report."""
    scene = Scene()
    scene.schedule(StepLR(scene.optimizer, 30))
    scene.clip()
    scene.run()
    report = scene.report(to_save={"trainer": scene.trainer})
    plain = report.to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert set(plain) == set(vars(report))
    assert plain["findings"][0] == {"kind": report.findings[0].kind, "text": report.findings[0].text}
    assert plain["run"] == {
        "max_epochs": EPOCHS,
        "max_iters": None,
        "epoch_length": LENGTH,
        "epoch": EPOCHS,
        "iteration": 48,
    }


def test_text_and_html_have_the_same_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """The terminal's width is kept, and HTML is escaped."""
    scene = Scene()
    scene.use([{"params": scene.model.parameters(), "name": "<all>"}])
    scene.schedule(StepLR(scene.optimizer, 30))
    report = scene.report(to_save={"<t>": scene.trainer})
    monkeypatch.setenv("COLUMNS", "80")
    text, page = str(report), report._repr_html_()
    assert repr(report) == text
    assert max(map(len, text.splitlines())) <= 80
    assert "  <all>  0.01" in text
    assert "&lt;all&gt;</td>" in page
    assert "<all>" not in page
    for finding in report.findings:
        assert finding.text in " ".join(text.split())
    assert "Findings: 2" in text
    assert "Findings: 2" in page


def test_numbers_end_at_the_right_and_an_unknown_time_has_no_column() -> None:
    """The middle of a run that is over is not known."""
    scene = Scene()
    scene.use(tips.param_groups(scene.model, {"body.*": {}, "head.*": {}}), lr=0.5)
    scene.schedule(StepLR(scene.optimizer, 2))
    scene.run()
    text, page = str(scene.report()), scene.report()._repr_html_()
    assert "  group      lr  parameters" in text
    assert "  body   0.0005          48" in text
    assert "  group  start     end\n  body     0.5  0.0005\n" in text
    assert re.search(r"<th [^>]*text-align: right[^>]*>end</th>", page)
    assert "middle" not in page


def test_two_handlers_that_look_alike_are_both_listed() -> None:
    """A cell that was run twice attaches such; one handler with several functions is listed once."""
    scene = Scene()
    for _ in range(2):
        scene.schedule(StepLR(scene.optimizer, step_size=2))
    assert scene.report().events["trainer"]["EPOCH_COMPLETED"] == ["SchedulerStepper(StepLR(step_size=2))"] * 2


def test_a_lambda_of_a_notebook() -> None:
    """Its file is not one that a reader knows."""
    scene = Scene()
    function = eval(compile("lambda: None", "/tmp/ipykernel_1/1513006272.py", "eval"))
    scene.trainer.add_event_handler(Events.EPOCH_COMPLETED, function)
    assert scene.report().events["trainer"]["EPOCH_COMPLETED"] == ["lambda in a cell:1"]


def test_a_trainer_without_handlers_has_a_report() -> None:
    """Any engine has one."""
    report = tips.describe_trainer(Engine(lambda engine, batch: None))
    assert report.findings == ()
    assert "Findings: none" in str(report)
    assert "Handlers of the trainer: none" in str(report)
    assert "Trainer: max_epochs not known before the run, so schedules are not checked; not run" in str(report)


def test_a_state_with_other_counts_has_a_report() -> None:
    """A run refuses it, in one sentence; a report may be asked for before."""
    scene = Scene()
    scene.clip()
    scene.run(1)
    scene.trainer.load_state_dict({**scene.trainer.state_dict(), "optimizer_steps": []})
    assert scene.report().optimizers[0].updates == 0


def test_an_optimizer_that_the_trainer_does_not_use_does_not_count() -> None:
    """It exists, as that of an earlier cell, but nothing of the trainer refers to it; to_save names one that does."""
    scene = Scene()
    scene.use(scene.model.body.parameters())
    scene.clip()
    other = torch.optim.SGD(scene.model.head.parameters(), lr=0.1)
    assert [finding.kind for finding in scene.report().findings] == ["no group"]
    to_save = {"body": scene.optimizer, "head": other}
    assert "no group" not in [finding.kind for finding in scene.report(to_save=to_save).findings]


def test_a_logger_that_joins_a_run_is_there_from_the_start_of_the_next(tmp_path: Path) -> None:
    """So that it misses something in one run only; the same for a RunAnnotator."""
    scene = Scene()
    logger = tips.ResumableTensorboardLogger(tmp_path, scene.trainer)
    annotator = tips.RunAnnotator(scene.model, scene.optimizer)
    scene.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=3), lambda: annotator.attach(scene.trainer, logger))
    scene.run(1)
    (finding,) = scene.report().findings
    assert finding.text.startswith("RunAnnotator(Net, optimizer=Adam) was attached at iteration 3 of the run, so what")
    seen = []
    scene.trainer.add_event_handler(Events.ITERATION_STARTED(once=1), lambda: seen.append(scene.report().findings))
    scene.run(1)
    assert seen == [()]
    logger.close()


def test_a_logger_that_comes_when_a_resumed_run_starts_misses_nothing() -> None:
    """Its trainer is at an iteration of the run before."""
    scene = Scene()
    logger = tips.LearningRateLogger(scene.optimizer)
    scene.trainer.load_state_dict({"epoch_length": LENGTH, "max_epochs": EPOCHS, "iteration": LENGTH})
    scene.trainer.add_event_handler(
        Events.STARTED, lambda: logger.attach(scene.trainer, event=Events.ITERATION_STARTED)
    )
    scene.run()
    assert scene.report().findings == ()


def test_asking_changes_nothing() -> None:
    """Two runs end alike, bit for bit, if one of them is asked before, after and at each event."""

    def outcome(*, asked: bool) -> list[Any]:
        scene = Scene()
        scene.clip()
        scene.schedule()
        freezer = tips.ParameterFreezer(scene.model, "body.*", optimizer=scene.optimizer)
        freezer.attach(scene.trainer, unfreeze=Events.EPOCH_STARTED(once=3))
        for event in (Events.STARTED, Events.ITERATION_STARTED, *OptimizerEvents, Events.EPOCH_COMPLETED):
            if asked:
                scene.trainer.add_event_handler(event, lambda engine: scene.report())
        scene.run()
        state = scene.optimizer.state_dict()["state"]
        return [*scene.model.state_dict().values(), torch.rand(1), *(each["exp_avg"] for each in state.values())]

    assert all(map(torch.equal, outcome(asked=True), outcome(asked=False)))


def test_a_report_keeps_nothing_alive() -> None:
    """It has plain values only."""
    scene = Scene()
    scene.clip()
    report = scene.report(to_save={"trainer": scene.trainer})

    def leaves(value: Any) -> list[Any]:
        members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return [value] if members is None else [leaf for member in members for leaf in leaves(member)]

    assert {type(leaf) for leaf in leaves(report.to_dict())} <= {str, int, float, type(None)}
