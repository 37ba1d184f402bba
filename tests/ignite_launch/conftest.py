"""Two hosts: network namespaces with their own addresses, connected by a virtual cable."""

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.ignite_launch.hosts import Host


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts that reach each other and nothing else."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("two network namespaces need root and the command ip")
    number = os.getpid()
    first, second = (Host(f"ignite{number}{end}", f"v{number}{end}", f"10.91.0.{i}") for i, end in ((1, "a"), (2, "b")))
    cable = (
        f"link add {first.interface} netns {first.namespace} type veth peer {second.interface} netns {second.namespace}"
    )
    commands = [f"netns add {first.namespace}", f"netns add {second.namespace}", cable]
    for host in (first, second):
        inside = f"-n {host.namespace}"
        commands += [
            f"{inside} link set lo up",
            f"{inside} link set {host.interface} up",
            f"{inside} addr add {host.address}/24 dev {host.interface}",
        ]
    try:
        for command in commands:
            done = subprocess.run(["ip", *command.split()], capture_output=True, text=True, timeout=10)
            if done.returncode:
                pytest.skip(f"this machine makes no network namespaces: ip {command}: {done.stderr.strip()}")
        yield first, second
    finally:
        for host in (first, second):
            subprocess.run(["ip", "netns", "del", host.namespace], capture_output=True, timeout=10)
