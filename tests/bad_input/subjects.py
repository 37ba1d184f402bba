"""Every public callable, and the domain of each of its parameters: the docstrings as strategies."""

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import matplotlib.figure
import numpy as np
import torch
from hypothesis import strategies as st
from ignite.engine import CallableEventWithFilter, Engine, Events, EventsList
from ignite.handlers import ProgressBar, TensorboardLogger
from torch import nn
from torch.optim import LBFGS, SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

import ignite_tips
from tests.bad_input.domains import Domain, integer, just, number, one_of, optional, some
from tests.bad_input.scene import Own

__all__ = ["SUBJECTS", "Subject", "registered"]


@dataclass(frozen=True)
class Subject:
    """A callable, the arguments it needs, the domain of each parameter, and how to undo a call.

    A parameter with a sentence instead of a domain accepts anything, or is tested elsewhere.
    """

    call: Callable[..., Any]
    base: Callable[[], dict[str, Any]]
    domains: dict[str, Domain | str]
    undo: Callable[[Any], object] = lambda result: None


def _scheduler() -> StepLR:
    return StepLR(SGD([nn.Parameter(torch.ones(1))], lr=1.0), 2)


def _is_empty(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 0


_model, _stranger = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2)), nn.Linear(4, 2)
_sgd, _other = SGD(_model.parameters(), lr=0.1, momentum=0.9), SGD(_stranger.parameters(), lr=0.1)
_lbfgs, _part = LBFGS(_model.parameters()), SGD(_model[3].parameters(), lr=0.1)
_trainer, _evaluator = (Engine(lambda engine, batch: None) for _ in range(2))
_steps, _plateau = StepLR(_sgd, 2), ReduceLROnPlateau(_sgd)
_tb_logger: Any = TensorboardLogger.__new__(TensorboardLogger)
_tb_logger.writer = nn.Identity()  # stands for an open writer
_freezer, _stepper = ignite_tips.ParameterFreezer(_model, "0.*"), ignite_tips.SchedulerStepper(_steps)
_unfreezer, _plateaus = ignite_tips.GradualUnfreezer(_model, ["3.*", "0.*"]), ignite_tips.PlateauStepper(_plateau)
_clipper, _logger = ignite_tips.GradientNormClipper(_sgd, 1.0), ignite_tips.LearningRateLogger(_sgd)
_summarizer, _annotator = ignite_tips.ModelSummarizer(_model), ignite_tips.RunAnnotator(_model, _sgd)
_summary = ignite_tips.summarize_model(_model, input_size=(2, 4))

_bool, _title, _depth = one_of(True, False), optional(Domain(lambda v: isinstance(v, str), st.text("ab"))), integer(1)
_tag = optional(Domain(lambda value: isinstance(value, str) and value != "", st.text(min_size=1, max_size=5)))
_finite, _rate = number(0, below=True), number(0, 1, above=False)
_engine, _optimizer, _own = just(_trainer, _sgd), just(_sgd, _lbfgs, _model), just(_sgd, _other, _model)
_misses = ("", "4.*", "0", "^0", ["0.*", "4.*"], ["0.*", None], [b"0.*"], b"0.*", _model)
_patterns = some("*", "*.bias", ["0.*", "3.*"], ("0.weight",), but=_misses)
_no_decay = some("biases", ["norms", "*.weight"], but=_misses, and_also=_is_empty)
_events = (Events.EPOCH_STARTED, Events.ITERATION_COMPLETED(every=2), Events.STARTED | Events.EPOCH_COMPLETED(once=2))
_event = some(
    *_events,
    but=(EventsList(), Events.STARTED | Own.SOMETHING, Own.SOMETHING(every=2), "EPOCH_STARTED", [Events.STARTED]),
    and_also=lambda value: isinstance(value, Events),
)
_tensors = some(torch.ones(2), [torch.ones(2)], but=([1.0], [torch.ones(2), None], torch.ones(2, dtype=torch.int64)))
_tensors = replace(
    _tensors, admits=lambda value: (isinstance(value, torch.Tensor) and value.is_floating_point()) or _is_empty(value)
)
_sizes = some((2, 4), [2, 4], [(2, 4)], but=((2, 0), [(2,), 1], (2, -4), "2", ((),)), and_also=lambda v: v is None)
_keywords = optional(some({}, but=([1], {1: 2}), and_also=lambda value: value == {} and isinstance(value, dict)))
_mapping = some({}, {"lr": 0.1}, and_also=lambda value: value == {} and isinstance(value, dict))
_callable = Domain(callable, st.just(print))
_anything = "takes anything"
_names_in_table = "its names are in the table of bad input"


def _clips(name: str, arguments: dict[str, Any] | None = None, **domains: Domain | str) -> Subject:
    shared: dict[str, Domain | str] = {
        "optimizer": just(_sgd, _lbfgs, _model, SGD([{"params": []}], lr=0.1)),
        "on_nonfinite": one_of("raise", "skip", "propagate"),
        "model": optional(just(_model, _stranger)),
        "tag": _tag,
        "process_group": one_of(None),
    }
    if name != "GradientValueClipper":  # its norm, the largest value, is the same whatever ranks are asked
        shared["norm_group"] = one_of(None)
    return Subject(getattr(ignite_tips, name), lambda: {"optimizer": _sgd} | (arguments or {}), shared | domains)


def _public(name: str, base: dict[str, Any] | Callable[[], dict[str, Any]], **domains: Domain | str) -> Subject:
    make = base if callable(base) else lambda: dict(base)
    return Subject(getattr(ignite_tips, name), make, domains)


def _attach(handler: Any, base: dict[str, Any], **domains: Domain | str) -> Subject:
    return Subject(handler.attach, lambda: {"trainer": _trainer} | base, {"trainer": _engine} | domains, _detach)


def _detach(handler: Any) -> None:
    handler.detach()


def _load(handler: Any, parameter: str = "state_dict", **domains: Domain) -> Subject:
    state = handler.state_dict()
    return Subject(handler.load_state_dict, lambda: {parameter: state}, {parameter: some(state), **domains})


SUBJECTS = {
    "AdaptiveGradientClipper": _clips(
        "AdaptiveGradientClipper",
        {"model": _model},
        clipping=_finite,
        eps=_finite,
        exclude=some("3.*", ["0.*"], but=_misses, and_also=_is_empty),
    ),
    "AutoClipper": _clips("AutoClipper", percentile=number(0, 100), history_size=integer(1)),
    "GradientNormClipper": _clips(
        "GradientNormClipper", {"max_norm": 1.0}, max_norm=number(0), norm_type=number(0), per_group=_bool
    ),
    "GradientValueClipper": _clips("GradientValueClipper", {"clip_value": 1.0}, clip_value=_finite),
    "ZClipper": _clips(
        "ZClipper",
        alpha=number(0, 1, below=True),
        z_threshold=_finite,
        max_norm=number(0),
        warmup_steps=integer(1),
    ),
    "GradientNormClipper.attach": _attach(_clipper, {}),
    "GradientNormClipper.load_state_dict": _load(_clipper),
    "AutoClipper.load_state_dict": _load(ignite_tips.AutoClipper(_sgd)),
    "ZClipper.load_state_dict": _load(ignite_tips.ZClipper(_sgd)),
    "clip_gradient_norm": _public(
        "clip_gradient_norm",
        {"tensors": torch.ones(2), "max_norm": 1.0},
        tensors=_tensors,
        max_norm=number(0),
        norm_type=number(0),
    ),
    "gradient_norm": _public("gradient_norm", {"tensors": torch.ones(2)}, tensors=_tensors, norm_type=number(0)),
    "ParameterFreezer": _public(
        "ParameterFreezer",
        {"model": _model, "patterns": "0.*"},
        model=just(_model),
        patterns=_patterns,
        optimizer=optional(_own),
        pattern_group=one_of(None),
    ),
    "ParameterFreezer.attach": _attach(
        _freezer,
        {"freeze": Events.STARTED},
        freeze=_event,
        unfreeze=optional(replace(_event, within=st.just(_events[0]))),
    ),
    "ParameterFreezer.load_state_dict": _load(_freezer),
    "GradualUnfreezer": _public(
        "GradualUnfreezer",
        {"model": _model, "stages": ["3.*", "0.*"]},
        model=just(_model),
        stages=some(["3.*", "0.*"], [["3.*", "1.*"], "0.*"], but=("3.*", [[]], ["3.*", "3.bias"], ["4.*"], {"3.*"})),
        optimizer=optional(just(_sgd, _other, _part, _model)),
        pattern_group=one_of(None),
    ),
    "GradualUnfreezer.attach": _attach(_unfreezer, {}, every=integer(1)),
    "GradualUnfreezer.load_state_dict": _load(_unfreezer),
    "freeze_parameters": Subject(
        ignite_tips.freeze_parameters,
        lambda: {"model": _model, "patterns": "0.*"},
        {"model": just(_model), "patterns": _patterns},
        ignite_tips.unfreeze_parameters,
    ),
    "unfreeze_parameters": _public(
        "unfreeze_parameters", {}, frozen=just(ignite_tips.freeze_parameters(_stranger, "*"))
    ),
    "select_parameters": _public(
        "select_parameters", {"model": _model, "patterns": "*"}, model=just(_model), patterns=_patterns
    ),
    "param_groups": _public(
        "param_groups",
        {"model": _model, "rules": {"*": {}}},
        model=just(_model),
        rules=some({"*": {}}, {"0.*": {"lr": 1}, "[13].*": {}}, but=({}, {"0.*": {}}, {"*": 1}, {"*": {}, "0.*": {}})),
        default=optional(_mapping),
        no_decay=_no_decay,
    ),
    "layerwise_lr_groups": _public(
        "layerwise_lr_groups",
        {"model": _model, "layers": ["0.*"], "lr": 0.1, "decay": 0.5},
        model=just(_model),
        layers=some(["0.*"], ("0.*", ["1.*", "3.*"]), but=("0.*", [["0.*"], []], ["0.*", "0.*"], ["4.*"], {"0.*": 1})),
        lr=number(0, above=False, below=True),
        decay=number(0, 1),
        no_decay=_no_decay,
        options=_names_in_table,
    ),
    "param_group_table": _public(
        "param_group_table",
        {"model": _model},
        model=just(_model, nn.ReLU()),
        optimizer=optional(_own),
        depth=optional(_depth),
    ),
    "rewrap_model": _public("rewrap_model", {}, ddp_model=Domain(lambda value: False, st.nothing())),
    "wrap_model": _public(
        "wrap_model",
        {"model": _stranger},
        model=just(_stranger, nn.DataParallel(_stranger)),
        sync_bn=_bool,
        ddp_options=_names_in_table,
    ),
    "process_group": _public("process_group", {}, options=_names_in_table),
    "SchedulerStepper": _public("SchedulerStepper", {}, scheduler=just(_steps, _plateau)),
    "SchedulerStepper.attach": _attach(_stepper, {}, event=_event),
    "SchedulerStepper.load_state_dict": _load(_stepper, "state", keep_settings=_bool),
    "PlateauStepper": _public(
        "PlateauStepper",
        {"scheduler": _plateau},
        scheduler=just(_plateau, _steps),
        metric=Domain(lambda value: callable(value) or (isinstance(value, str) and value != ""), st.just("loss")),
    ),
    "PlateauStepper.attach": _attach(
        _plateaus,
        {"evaluator": _evaluator},
        trainer=just(_trainer, _evaluator),
        evaluator=just(_evaluator, _trainer),
        data=_anything,
    ),
    "PlateauStepper.load_state_dict": _load(_plateaus, "state", keep_settings=_bool),
    "linear_warmup": _public("linear_warmup", {"steps": 3}, steps=integer(1), start_factor=_rate),
    "warmup_stable_decay": _public(
        "warmup_stable_decay",
        {"warmup": 1, "stable": 1, "decay": 1},
        warmup=integer(0),
        stable=integer(0),
        decay=integer(0),
        shape=one_of("cosine", "linear", "sqrt"),
        min_factor=_rate,
    ),
    "with_warmup": _public(
        "with_warmup",
        lambda: {"scheduler": _scheduler(), "steps": 3},
        scheduler=Domain(lambda value: False, st.builds(_scheduler), st.sampled_from([_plateau, _sgd])),
        steps=integer(1),
        start_factor=number(0, 1),
    ),
    "simulate_schedule": _public(
        "simulate_schedule",
        {"scheduler": _steps, "steps": 3},
        scheduler=just(_steps, _sgd),
        steps=integer(1),
        metrics="needs another scheduler: see the next",
    ),
    "simulate_schedule of ReduceLROnPlateau": Subject(
        ignite_tips.simulate_schedule,
        lambda: {"scheduler": _plateau},
        {
            "metrics": some(
                [1.0, 2], but=([1.0, None], [math.nan], ["1"]), and_also=lambda v: isinstance(v, range | np.ndarray)
            )
        },
    ),
    "plot_schedule": _public(
        "plot_schedule",
        {"learning_rates": {"a": [0.1]}},
        learning_rates=some(
            {"a": [0.1]}, {"a": (1, 0.5), "b": [0.2]}, but=({"a": []}, {1: [0.1]}, {"a": ["1"]}, {"a": 0.1})
        ),
        title=_title,
        xlabel=Domain(lambda value: isinstance(value, str), st.just("epoch")),
        log_scale=_bool,
        axes=optional(just(matplotlib.figure.Figure().subplots())),
    ),
    "plot_runs": _public(
        "plot_runs", {}, runs=Domain(lambda value: False, st.nothing(), st.just(["x", 3])), title="see its own tests"
    ),
    "LearningRateLogger": _public(
        "LearningRateLogger",
        {"optimizer": _sgd},
        optimizer=just(_sgd, _model),
        param_names=some("lr", ["lr", "momentum"], but=("beta", "foreach", "nesterov", ["lr", 1], b"lr", {"lr": 1})),
        tag=_tag,
        only_changes=_bool,
        run_per_group=_bool,
        global_step_transform=optional(_callable),
    ),
    "LearningRateLogger.attach": _attach(_logger, {}, logger=optional(just(_tb_logger, ProgressBar())), event=_event),
    "RunAnnotator": _public(
        "RunAnnotator",
        {"model": _model, "optimizer": _sgd},
        model=just(_model, _stranger),
        optimizer=just(_sgd, _other, _lbfgs),
        tag=_tag,
    ),
    "RunAnnotator.attach": _attach(_annotator, {"tb_logger": _tb_logger}, tb_logger=just(_tb_logger), event=_event),
    "ResumableTensorboardLogger": Subject(
        ignite_tips.ResumableTensorboardLogger,
        lambda: {"log_dir": tempfile.mkdtemp(), "trainer": _trainer},
        {
            "log_dir": Domain(
                lambda value: isinstance(value, str) and value != "",
                st.builds(tempfile.mkdtemp),
                st.sampled_from(["a\0b", "/dev/null", "/dev/null/logs", b"logs"]),
            ),
            "trainer": _engine,
        },
        lambda tb_logger: tb_logger.close(),
    ),
    "describe_trainer": _public(
        "describe_trainer",
        {"trainer": _trainer},
        trainer=_engine,
        to_save=optional(Domain(lambda value: isinstance(value, dict), st.just({"model": _model}))),
        model=optional(Domain(lambda value: isinstance(value, nn.Module), st.just(_model))),
        max_epochs=optional(integer(1)),
        epoch_length=optional(integer(1)),
    ),
    "ModelSummarizer": _public(
        "ModelSummarizer",
        {"model": _model},
        model=just(_model),
        input_size=_sizes,
        example=_anything,
        keywords=_keywords,
        input_of_batch=_callable,
        optimizer=optional(_own),
        backend=optional(one_of("torchinfo", "torchsummary")),
        depth=optional(_depth),
        output=_callable,
    ),
    "ModelSummarizer.attach": _attach(_summarizer, {}, tb_logger=optional(just(_tb_logger))),
    "summarize_model": _public(
        "summarize_model",
        {"model": _model, "input_size": (2, 4)},
        model=just(_model),
        example=_anything,
        input_size=replace(_sizes, admits=lambda value: False),
        keywords=_keywords,
        optimizer=optional(_own),
        backend=optional(one_of("torchinfo", "torchsummary")),
        depth=optional(_depth),
    ),
    "ModelSummary.table": Subject(_summary.table, dict, {"depth": optional(_depth), "width": optional(integer(60))}),
    "ModelSummary.markdown": Subject(_summary.markdown, dict, {"depth": optional(_depth)}),
    "attach_optimizer_events": Subject(
        ignite_tips.attach_optimizer_events,
        lambda: {"engine": _trainer, "optimizer": _sgd},
        {"engine": _engine, "optimizer": _optimizer},
        lambda result: ignite_tips.detach_optimizer_events(_trainer, _sgd),
    ),
    "detach_optimizer_events": _public(
        "detach_optimizer_events",
        {"engine": _trainer, "optimizer": _sgd},
        engine=_engine,
        optimizer=just(_sgd, _model),
    ),
    "current_step": _public("current_step", {}, engine=Domain(lambda value: False, st.nothing(), st.just(_sgd))),
    "for_optimizer": _public(
        "for_optimizer",
        {"optimizer": _sgd, "event": Events.STARTED},
        optimizer=just(_sgd, _model),
        event=Domain(lambda value: isinstance(value, CallableEventWithFilter | EventsList), st.sampled_from(_events)),
    ),
}


def registered() -> Any:
    """Return what is registered on the engines and the optimizer."""
    engines = [[event for event, handlers in e._event_handlers.items() if handlers] for e in (_trainer, _evaluator)]
    return engines, len(_sgd._optimizer_step_pre_hooks), list(_trainer.state_dict())
