"""One script for a single process, DataParallel and DistributedDataParallel: the environment sets the strategy.

The first of these that is set decides:

- the launcher's variables: ``IGNITE_LAUNCH_STRATEGY`` is ``single``, ``dp`` or ``ddp``, ``IGNITE_LAUNCH_BACKEND`` is
  ``nccl`` or ``gloo``; for ``ddp`` also the five variables below;
- torchrun's variables: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, which mean ``ddp``;
- nothing: ``single``.
"""

import contextlib
import inspect
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ignite.distributed as idist
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from ignite_tips._checks import check_choice, check_instance, describe

__all__ = ["Strategy", "process_group", "strategy_from_environment", "wrap_model"]

_LAUNCH_VARIABLES = ("IGNITE_LAUNCH_STRATEGY", "IGNITE_LAUNCH_BACKEND")
_RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_ADDRESS_VARIABLES = ("MASTER_ADDR", "MASTER_PORT")  # clusters may set these for every job
_DIGITS = 18  # more may not fit into 64 bits
_LAST_PORT = 65_535
_CHOICES = {"IGNITE_LAUNCH_STRATEGY": ("single", "dp", "ddp"), "IGNITE_LAUNCH_BACKEND": ("nccl", "gloo")}
_GROUP_OPTIONS = frozenset(
    name for name in inspect.signature(dist.init_process_group).parameters if name != "backend" and name[0] != "_"
)
_DDP_OPTIONS = frozenset(inspect.signature(DistributedDataParallel).parameters) - {"module", "device_ids"}


@dataclass(frozen=True)
class Strategy:
    """How the model trains: ``"single"``, ``"dp"`` or ``"ddp"``, and the backend for ``"ddp"``."""

    name: str
    backend: str | None = None


def strategy_from_environment(environment: Mapping[str, str] | None = None) -> Strategy:
    """Return the strategy that the environment variables ask for.

    Raises:
        ValueError: if a variable has an unknown value.
        RuntimeError: if only some of the variables that belong together are set, or they contradict each other.

    Example:
        >>> strategy_from_environment({})
        Strategy(name='single', backend=None)
        >>> strategy_from_environment({"RANK": "0"})
        Traceback (most recent call last):
        RuntimeError: ddp needs all of RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT; missing: WORLD_SIZE, ...
    """
    environment = os.environ if environment is None else environment
    name, backend = (_choice(environment, variable) for variable in _LAUNCH_VARIABLES)
    has_ranks = any(variable in environment for variable in _RANK_VARIABLES if variable not in _ADDRESS_VARIABLES)
    if name is None:
        if backend is not None and not has_ranks:
            raise RuntimeError("IGNITE_LAUNCH_BACKEND is set but IGNITE_LAUNCH_STRATEGY is not; set both or neither")
        name = "ddp" if has_ranks else "single"
    if name == "ddp":
        _check_ranks(environment)
        return Strategy(name, backend or ("nccl" if torch.cuda.is_available() else "gloo"))
    if environment.get("WORLD_SIZE", "1") != "1":
        raise RuntimeError(
            f"IGNITE_LAUNCH_STRATEGY {name!r} means one process, but WORLD_SIZE is {environment['WORLD_SIZE']}, and "
            "each process would train its own copy; set it to ddp, or start one process"
        )
    return Strategy(name)


@contextlib.contextmanager
def process_group(**options: Any) -> Iterator[Strategy]:
    """Set up the process group that the environment asks for, and destroy it at the end, also after an error.

    Within the block ``ignite.distributed`` knows device, rank and world size. ``single`` and ``dp`` need no group.

    Args:
        **options: options of ``torch.distributed.init_process_group`` such as ``timeout``, except ``backend``; used
            for ``ddp`` only.

    Raises:
        TypeError: if an option is unknown.
        ValueError: if an environment variable has an unknown value.
        RuntimeError: if only some of the variables are set, a group exists already, or nccl has no GPU for the process.

    Example:
        >>> with process_group() as strategy:
        ...     model = wrap_model(nn.Linear(2, 2))
        >>> strategy.name, type(model).__name__
        ('single', 'Linear')
    """
    unknown = sorted(set(options) - _GROUP_OPTIONS)
    if unknown:
        raise TypeError(
            f"process_group() takes init_process_group()'s options except backend, got {unknown[0]!r}; they are: "
            f"{', '.join(sorted(_GROUP_OPTIONS))}"
        )
    strategy = strategy_from_environment()
    if _active:
        raise RuntimeError("process_group() must not be entered twice; use one block for the whole script")
    if strategy.name == "ddp":
        _check_before_start(strategy)
        with _hidden_slurm_job():
            idist.initialize(str(strategy.backend), **options)
    _active.append(strategy)
    try:
        yield strategy
    except BaseException:
        _active.remove(strategy)
        # The original error says more than the errors it causes in the group.
        with contextlib.suppress(Exception):
            _finalize(strategy)
        raise
    _active.remove(strategy)
    _finalize(strategy)


def wrap_model(model: nn.Module, *, sync_bn: bool = False, **ddp_options: Any) -> nn.Module:
    """Move the model to this process's device and wrap it as the strategy asks: not at all, in DataParallel or in DDP.

    ``ignite.distributed.auto_model`` alone would choose DataParallel whenever one process sees several GPUs, and pass
    it options that only DDP takes.

    Args:
        model: the bare module.
        sync_bn: True converts BatchNorm to SyncBatchNorm, for ``ddp`` only.
        **ddp_options: options of DistributedDataParallel such as ``gradient_as_bucket_view``; used for ``ddp`` only.

    Raises:
        TypeError: if ``model`` is not a module, or an option is unknown to DistributedDataParallel.
        ValueError: if the model is already wrapped.
        RuntimeError: if the strategy is ``ddp`` and there is no process group.

    Example:
        >>> type(wrap_model(nn.Linear(2, 2), find_unused_parameters=True)).__name__
        'Linear'
    """
    check_instance("model", model, nn.Module, "a torch.nn.Module")
    if isinstance(model, DataParallel | DistributedDataParallel):
        raise ValueError(f"model must be a bare module, got one wrapped in {type(model).__name__}")
    unknown = sorted(set(ddp_options) - _DDP_OPTIONS)
    if unknown:
        raise TypeError(
            f"wrap_model() takes DistributedDataParallel's options except device_ids, got {unknown[0]!r}; they are: "
            f"{', '.join(sorted(_DDP_OPTIONS))}"
        )
    check_instance("sync_bn", sync_bn, bool, "True or False")
    strategy = _current_strategy()
    if strategy.name == "ddp":
        wrapped = _wrap_in_ddp(model, sync_bn, ddp_options)
        expected: type[nn.Module] = DistributedDataParallel
    else:
        wrapped = model.to(idist.device())
        expected = type(model)
        if strategy.name == "dp":
            wrapped, expected = DataParallel(wrapped), DataParallel
    if not isinstance(wrapped, expected):
        raise RuntimeError(f"strategy {strategy.name!r} needs {expected.__name__}, got {type(wrapped).__name__}")
    return wrapped


_active: list[Strategy] = []
_GLOO_PAUSE = 0.05  # seconds; the threads need microseconds


def _choice(environment: Mapping[str, str], variable: str) -> str | None:
    value = environment.get(variable)
    if value is not None:
        check_choice(variable, value, _CHOICES[variable])
    return value


def _check_ranks(environment: Mapping[str, str]) -> None:
    missing = [variable for variable in _RANK_VARIABLES if not environment.get(variable)]
    if missing:
        raise RuntimeError(
            f"ddp needs all of {', '.join(_RANK_VARIABLES)}; missing: {', '.join(missing)}; "
            "start the script with ignite-launch or torchrun, which set them"
        )
    numbers = {}
    for variable in _RANK_VARIABLES:
        if variable != "MASTER_ADDR":
            text = environment[variable]
            if not text.isdecimal() or len(text) > _DIGITS:
                raise ValueError(f"{variable} must be an integer >= 0, got {describe(text)}")
            numbers[variable] = int(text)
    if numbers["MASTER_PORT"] > _LAST_PORT:
        raise ValueError(f"MASTER_PORT must be <= {_LAST_PORT}, got {numbers['MASTER_PORT']}")
    if not max(numbers["RANK"], numbers["LOCAL_RANK"]) < numbers["WORLD_SIZE"]:
        raise ValueError(
            f"RANK and LOCAL_RANK must be < WORLD_SIZE {numbers['WORLD_SIZE']}, "
            f"got {numbers['RANK']} and {numbers['LOCAL_RANK']}"
        )


def _check_before_start(strategy: Strategy) -> None:
    if dist.is_initialized():
        raise RuntimeError("process_group() must create the process group, but one exists already; leave that to it")
    if strategy.backend == "nccl":
        count, local_rank = torch.cuda.device_count(), int(os.environ["LOCAL_RANK"])
        if local_rank >= count:
            fewer = "start fewer processes, or " if count else ""
            raise RuntimeError(
                f"nccl needs one GPU per process, but LOCAL_RANK {local_rank} sees {count} GPUs; "
                f"{fewer}set IGNITE_LAUNCH_BACKEND to gloo"
            )


@contextlib.contextmanager
def _hidden_slurm_job() -> Iterator[None]:
    # Inside a SLURM job ignite.distributed would take ranks from SLURM's variables. They count one task even if
    # torchrun started several processes.
    job = os.environ.pop("SLURM_JOB_ID", None)
    try:
        yield
    finally:
        if job is not None:
            os.environ["SLURM_JOB_ID"] = job


def _finalize(strategy: Strategy) -> None:
    if strategy.name == "ddp" and not dist.is_initialized():
        idist.sync()  # the user has destroyed the group, and ignite.distributed would go on asking it
    elif strategy.name == "ddp":
        if strategy.backend == "gloo":
            # gloo's threads need the GIL once more to release the work of the last backward. Without this pause they
            # abort the process at exit, or deadlock: the last wrapper's destructor holds the GIL and waits for them.
            time.sleep(_GLOO_PAUSE)
        environment = dict(os.environ)
        idist.finalize()
        os.environ.update(environment)  # idist restores the environment it started with


def _current_strategy() -> Strategy:
    if _active:
        return _active[-1]
    if dist.is_initialized():  # the user's own group, or ignite.distributed.Parallel's
        return Strategy("ddp", dist.get_backend())
    strategy = strategy_from_environment()
    if strategy.name == "ddp":
        raise RuntimeError("wrap_model() needs the process group for ddp; call it inside `with process_group():`")
    return strategy


def _wrap_in_ddp(model: nn.Module, sync_bn: bool, ddp_options: dict[str, Any]) -> nn.Module:
    # In a group of one process auto_model would not wrap the model, or choose DataParallel: the names in its state dict
    # would depend on the number of processes. It also logs a line at any log level.
    device = idist.device()
    model = model.to(device)
    if sync_bn:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return DistributedDataParallel(model, device_ids=None if device.type == "cpu" else [device.index], **ddp_options)
