"""--env and --check: what a bug report needs, and whether processes reach each other."""

from importlib.metadata import version
from pathlib import Path

from tests.ignite_launch.nvml import fake_nvml, gpu
from tests.ignite_launch.support import launch
from tests.support import run_script


def test_env_prints_what_a_bug_report_needs(tmp_path: Path) -> None:
    """Versions, GPUs, network and the variables that matter are there, and no other variable."""
    variables = {"NCCL_DEBUG": "INFO", "SLURM_JOB_ID": "9", "PASSWORD": "secret"}
    out = launch(tmp_path, "--env", **fake_nvml(gpu("GPU-aa")), **variables).out
    facts = dict(line.split(": ", 1) for line in out.splitlines() if ": " in line)
    assert facts["torch"] == version("torch")
    assert "lo 127.0.0.1" in facts["interfaces"]
    assert "GPU-aa" in out
    assert {"NCCL_DEBUG=INFO", "SLURM_JOB_ID=9"} <= set(out.splitlines())
    assert "secret" not in out


def test_check_reduces_between_two_processes(tmp_path: Path) -> None:
    """Without GPUs, two processes on the CPU add up a tensor over gloo, and the bandwidth is printed."""
    result = launch(tmp_path, "--check")
    assert result.code == 0, result.err
    last = result.out.splitlines()[-1]  # some builds of torch print gloo's own messages first
    assert last.startswith("all-reduce of 64 MiB between 2 processes over gloo: right, ")


_CHECK = "from ignite_launch import all_reduce_check as check\ncheck._TIMEOUT = {}\ncheck.main()"


def test_check_says_that_a_peer_does_not_come(tmp_path: Path) -> None:
    """A process that waits in vain for another exits with 1 and a sentence."""
    (tmp_path / "lonely.py").write_text(_CHECK.format(1))
    variables = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    (ended,) = run_script(tmp_path / "lonely.py", folder=tmp_path, IGNITE_LAUNCH_BACKEND="gloo", **variables)
    assert ended.code == 1
    assert "the all-reduce failed on rank 0: no answer within 1 s" in ended.err


def test_check_says_what_is_wrong(tmp_path: Path) -> None:
    """What gloo says of an interface that does not exist is in the sentence."""
    (tmp_path / "both.py").write_text(_CHECK.format(20))
    variables = {"IGNITE_LAUNCH_BACKEND": "gloo", "GLOO_SOCKET_IFNAME": "nothere0"}
    ranks = run_script(tmp_path / "both.py", folder=tmp_path, world_size=2, **variables)
    assert any("the all-reduce failed on rank " in rank.err and "nothere0" in rank.err for rank in ranks), ranks
