"""Sort a model's parameters into named param groups for an optimizer."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import inf
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ignite_tips._checks import check_names, check_number, describe
from ignite_tips.parameters.options import warn_of_unknown
from ignite_tips.parameters.selection import (
    ParameterNames,
    as_patterns,
    named_parameters,
)
from ignite_tips.parameters.weight_decay import undecayed_names

__all__ = ["group_names", "layerwise_lr_groups", "learning_rates", "param_groups"]


def param_groups(
    model: nn.Module,
    rules: Mapping[str, Mapping[str, Any]],
    *,
    default: Mapping[str, Any] | None = None,
    no_decay: str | Iterable[str] = (),
) -> list[dict[str, Any]]:
    """Sort a model's parameters into param groups, each parameter into exactly one.

    Frozen parameters are included, so that they can be unfrozen later: most schedulers don't accept a group that is
    added after them. A parameter that several layers share appears once, under its first name.

    Args:
        model: any module; the names are those of the module inside a wrapper.
        rules: maps a shell glob over parameter names to the options of its group, such as ``{"lr": 1e-4}``. The
            option ``"name"`` names the group; without it the name is the glob, for ``backbone.*`` just ``backbone``.
            An optimizer ignores options that it does not know; one that no optimizer takes, whose class is
            loaded, is warned about.
        default: options of the group ``"default"``, for the parameters that no rule matches.
        no_decay: parameters that get a ``weight_decay`` of 0, in groups of their own named like
            ``"backbone-no_decay"``: globs, ``"biases"`` or ``"norms"``. Biases have the word "bias" in their own name,
            as ``bias``, ``in_proj_bias`` and ``bias_ih_l0``. Norms are all parameters of torch's normalization layers,
            the magnitudes of weight_norm, and any other parameter of at most one dimension, because it only scales or
            shifts; a bias counts only if its layer has no matrix. A scale of more dimensions in a class with "norm" in
            its name is warned about.

    Raises:
        TypeError: if an argument, a rule's pattern or its options have the wrong type.
        ValueError: if a pattern matches nothing, two match the same parameter, a parameter matches no rule and there
            is no default, or two groups have the same name.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1))
        >>> groups = param_groups(net, {"0.*": {"lr": 0.01}}, default={}, no_decay=("biases", "norms"))
        >>> for group in groups:
        ...     print(group["name"], group["param_names"])
        0 ['0.weight']
        0-no_decay ['0.bias']
        default ['2.weight']
        default-no_decay ['1.weight', '1.bias', '2.bias']
    """
    named = named_parameters(model)
    options = _options_by_group(rules, default)
    members = _members(model, named, rules, options, default is not None)
    undecayed = undecayed_names(model, named, no_decay)
    warn_of_unknown(option for group_options in options.values() for option in group_options)
    groups: list[dict[str, Any]] = []
    for name, group_options in options.items():
        decayed = [member for member in members[name] if member not in undecayed]
        if decayed:
            groups.append(_group(name, decayed, named, group_options))
        if len(decayed) < len(members[name]):
            rest = [member for member in members[name] if member in undecayed]
            groups.append(_group(f"{name}-no_decay", rest, named, {**group_options, "weight_decay": 0.0}))
    return groups


def layerwise_lr_groups(
    model: nn.Module,
    layers: Sequence[str | Sequence[str]],
    *,
    lr: float | torch.Tensor,
    decay: float,
    no_decay: str | Iterable[str] = (),
    **options: Any,
) -> list[dict[str, Any]]:
    """Give each layer a learning rate, smaller by the factor ``decay`` with each layer away from the output.

    Layer i of n gets lr · decay^(n − i), i = 0 … n − 1; parameters that no pattern matches, such as the head's, get lr.

    Args:
        model: any module; the names are those of the module inside a wrapper.
        layers: n patterns, or lists of patterns, from the input on: ``["embedding.*", "blocks.0.*", "blocks.1.*"]``.
        lr: the learning rate at the output, ≥ 0, finite; with a tensor each group has a tensor of its own.
        decay: the factor from one layer to the layer before it, in (0, 1].
        no_decay: parameters without weight decay, as for ``param_groups``; their learning rate decays all the same.
        **options: options of every group, such as ``weight_decay``.

    Raises:
        TypeError: as ``param_groups``.
        ValueError: if a number is out of range, or as ``param_groups``.

    Example:
        >>> net = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 1))
        >>> groups = layerwise_lr_groups(net, ["0.*", "1.*"], lr=1.0, decay=0.5)
        >>> [(group["name"], group["lr"]) for group in groups]
        [('0', 0.25), ('1', 0.5), ('rest', 1.0)]

    References:
        Bao et al. 2022, "BEiT", arXiv 2106.08254; He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners",
        arXiv 2111.06377: layer id 0 for the embedding, i + 1 for block i, blocks + 1 for the rest.
    """
    number = check_number("lr", lr, ge=0, lt=inf)
    lr = lr if isinstance(lr, torch.Tensor) else number
    decay = check_number("decay", decay, gt=0, le=1)
    if isinstance(layers, str) or not isinstance(layers, Sequence):
        raise TypeError(f"layers must be a list of patterns, got {describe(layers)}")
    if not layers:
        raise ValueError("layers must have at least one pattern, got none")
    rules: dict[str, Mapping[str, Any]] = {}
    for index, layer in enumerate(layers):
        patterns = as_patterns(layer, "each of layers")
        shared = {
            "name": "-".join(map(_default_name, patterns)),
            "lr": lr * decay ** (len(layers) - index),
            **options,
        }
        for pattern in patterns:
            if pattern in rules:
                raise ValueError(f"layers must have different patterns, got {pattern!r} twice")
            rules[pattern] = shared
    rest = None
    names = ParameterNames(model)
    covered = {name for pattern in rules for name in names.matching(pattern)}
    if covered != set(named_parameters(model)):
        rest = {"name": "rest", "lr": lr, **options}
    return param_groups(model, rules, default=rest, no_decay=no_decay)


def group_names(optimizer: Optimizer) -> list[str]:
    """Return the name of each param group: its ``"name"``, or its index if it has none.

    Raises:
        ValueError: if two groups have the same name.

    Example:
        >>> weight, bias = (nn.Parameter(torch.ones(1)) for _ in range(2))
        >>> group_names(torch.optim.SGD([{"params": weight, "name": "head"}, {"params": bias}], lr=0.1))
        ['head', '1']
    """
    names = [str(group.get("name", index)) for index, group in enumerate(optimizer.param_groups)]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the optimizer's param groups must have different names, got {twice!r} twice")
    return names


def learning_rates(group: Mapping[str, Any]) -> tuple[float, float]:
    """Return a param group's learning rate, and the one from which its schedule started; equal without a schedule.

    Example:
        >>> learning_rates({"lr": 0.001, "initial_lr": 0.1}), learning_rates({"lr": 0.1})
        ((0.001, 0.1), (0.1, 0.1))
    """
    return float(group["lr"]), float(group.get("initial_lr", group["lr"]))


def _options_by_group(
    rules: Mapping[str, Mapping[str, Any]], default: Mapping[str, Any] | None
) -> dict[str, dict[str, Any]]:
    if not isinstance(rules, Mapping):
        raise TypeError(f"rules must be a mapping from pattern to options, got {describe(rules)}")
    by_group: dict[str, dict[str, Any]] = {}
    origins: dict[str, int] = {}
    for name, options in _named_options(rules, default):
        # The patterns of one layer share one options object, which makes them one group.
        if name in by_group and origins[name] != id(options):
            raise ValueError(f"groups must have different names, got {name!r} twice")
        origins[name] = id(options)
        by_group[name] = {key: value for key, value in options.items() if key != "name"}
    return by_group


def _named_options(
    rules: Mapping[str, Mapping[str, Any]], default: Mapping[str, Any] | None
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for pattern, options in rules.items():
        as_patterns((pattern,), "patterns in rules")
        yield _checked_name(f"options of {pattern!r}", options, _default_name(pattern)), options
    if default is not None:
        yield _checked_name("default", default, "default"), default


def _default_name(pattern: str) -> str:
    return pattern.removesuffix(".*") or pattern


def _checked_name(what: str, options: object, fallback: str) -> str:
    if not isinstance(options, Mapping):
        raise TypeError(f"{what} must be a mapping, got {describe(options)}")
    check_names(f"names of {what}", list(options))
    for key in ("params", "param_names"):
        if key in options:
            raise ValueError(f"{what} must not have {key!r}, which the patterns decide")
    if options.get("lr") is not None:  # some optimizers take None, and compute it
        check_number(f"lr in {what}", options["lr"], ge=0)
    name = options.get("name", fallback)
    if not isinstance(name, str):
        raise TypeError(f"{what} must have a string as 'name', got {describe(name)}")
    return name


def _members(
    model: nn.Module,
    named: Mapping[str, nn.Parameter],
    rules: Mapping[str, Mapping[str, Any]],
    options: Mapping[str, Any],
    has_default: bool,
) -> dict[str, list[str]]:
    owner: dict[str, str] = {}
    names = ParameterNames(model)
    for pattern in rules:
        for name in names.matching(pattern):
            if name in owner:
                raise ValueError(f"parameter {name!r} must match one pattern, got {owner[name]!r} and {pattern!r}")
            owner[name] = pattern
    left_over = [name for name in named if name not in owner]
    if left_over and not has_default:
        raise ValueError(
            f"rules must match every parameter, but nothing matches: {', '.join(left_over)}; "
            "add a rule, or default={} for the optimizer's own options"
        )
    members: dict[str, list[str]] = {name: [] for name in options}
    default = next(reversed(members), "")
    for name in named:
        group = rules[owner[name]].get("name", _default_name(owner[name])) if name in owner else default
        members[group].append(name)
    return members


def _group(
    name: str, members: list[str], named: Mapping[str, nn.Parameter], options: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "params": [named[member] for member in members],
        "param_names": members,
        "name": name,
        # Schedulers change a tensor in place, so that each group needs its own.
        **{key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in options.items()},
    }
