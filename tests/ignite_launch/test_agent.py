"""The private attributes of torch that the launcher uses, all of them in agent.py."""

import inspect
import os
import re
from pathlib import Path

import ignite_launch
import pytest
import torch
from ignite_launch.agent import Agent
from torch.distributed.elastic.agent.server.api import WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import DynamicRendezvousHandler
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

_OVERRIDDEN = {
    "_exit_barrier": ["self"],
    "_monitor_workers": ["self", "worker_group"],
    "_rendezvous": ["self", "worker_group"],
    "_set_local_rank_env": ["self", "worker_env", "local_rank", "spec"],
    "_shutdown": ["self", "death_sig"],
    "_start_workers": ["self", "worker_group"],
}
_READ = ["_pcontext", "_remaining_restarts"]


def _torch_agent() -> LocalElasticAgent:
    handler = StaticTCPRendezvous("127.0.0.1", 0, 0, 1, "test", 1)
    return LocalElasticAgent(WorkerSpec("default", 1, handler, entrypoint="true"), DefaultLogsSpecs(os.devnull))


@pytest.mark.parametrize("name", _OVERRIDDEN)
def test_torch_still_calls_what_the_agent_overrides(name: str) -> None:
    """Each method that Agent overrides is a method of torch's agent, with the parameters that Agent knows."""
    method = getattr(LocalElasticAgent, name, None)
    missing = f"torch {torch.__version__} has no LocalElasticAgent.{name}, which ignite_launch.agent.Agent overrides"
    assert callable(method), missing
    parameters = list(inspect.signature(method).parameters)
    sentence = f"torch {torch.__version__}: LocalElasticAgent.{name} takes {parameters}, not {_OVERRIDDEN[name]}"
    assert parameters[: len(_OVERRIDDEN[name])] == _OVERRIDDEN[name], sentence


@pytest.mark.parametrize("name", _READ)
def test_torch_still_has_what_the_agent_reads(name: str) -> None:
    """Each private attribute that Agent reads is there in torch's agent."""
    sentence = f"torch {torch.__version__} has no LocalElasticAgent.{name}, which ignite_launch.agent reads"
    assert hasattr(_torch_agent(), name), sentence


def test_torch_still_has_what_the_agent_resets() -> None:
    """The elastic rendezvous handler keeps the first round's address in the attribute that Agent resets."""
    source = inspect.getsource(DynamicRendezvousHandler.next_rendezvous)
    sentence = f"torch {torch.__version__}: DynamicRendezvousHandler has no _bootstrap_store_info, which Agent resets"
    assert "if self._bootstrap_store_info is None" in source, sentence


def test_the_agent_overrides_nothing_else_of_torch() -> None:
    """No method or attribute of Agent's own has the name of one of torch's by accident."""
    own = {name for name in vars(Agent) if not name.startswith("__") and callable(getattr(Agent, name))}
    assert {name for name in own if hasattr(LocalElasticAgent, name)} == set(_OVERRIDDEN)
    source = inspect.getsource(Agent.__init__)
    assert [name for name in vars(_torch_agent()) if re.search(rf"self\.{name}\b", source)] == []


@pytest.mark.parametrize("path", sorted(Path(ignite_launch.__file__).parent.glob("*.py")), ids=lambda path: path.stem)
def test_only_the_agent_touches_torchs_private_attributes(path: Path) -> None:
    """No other file names them, and none imports from a private module of torch."""
    text = path.read_text()
    assert "torch._" not in text
    if path.stem != "agent":
        assert [name for name in (*_OVERRIDDEN, *_READ) if f".{name}" in text] == []
