"""Which of this host's addresses the other nodes can reach, and whether one can be reached from here."""

import contextlib
import fcntl
import ipaddress
import os
import socket
import struct
import time
from typing import Any

from .errors import LaunchError, UsageError

__all__ = ["check_interface", "check_own_name", "check_port_is_free", "is_own", "own_address", "wait_for_port"]

_SIOCGIFADDR = 0x8915


def own_address(host: str, port: int, interface: str | None) -> str:
    """Return this host's address on the interface or, without one, on the way to ``host``.

    Raises:
        UsageError: there is no such interface, or it has no address.
        LaunchError: ``host`` has no address, or no way leads there.
    """
    if interface is not None:
        check_interface(interface)
        return _interfaces()[interface]
    family, address = _resolve(host, port)
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(address)  # sends nothing: the kernel only looks up the route
        except OSError as error:
            raise LaunchError(f"no way leads to {host}: {error.strerror}") from error
        return str(probe.getsockname()[0])


def check_interface(name: str) -> None:
    """Raise UsageError if the network interface, of which gloo and NCCL will be told, is not there."""
    there = _interfaces()
    if name not in there:
        listing = ", ".join(f"{own} ({address})" for own, address in there.items())
        raise UsageError(f"--interface {name}: there is no such interface with an address; there are: {listing}")


def is_own(host: str, port: int) -> bool:
    """Whether ``host`` is an address of this host."""
    family, address = _resolve(host, port)
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address[0], 0, *address[2:]))
        except OSError:
            return False
    return True


def check_own_name(address: str, interface: str | None) -> None:
    """Raise UsageError if gloo would offer the other nodes a loopback address, on which it then waits for ever.

    Gloo takes the address that the host's own name resolves to, unless an interface is named.
    """
    if interface or os.environ.get("GLOO_SOCKET_IFNAME") or ipaddress.ip_address(address).is_loopback:
        return
    name = socket.gethostname()
    try:
        resolved = [str(entry[4][0]) for entry in socket.getaddrinfo(name, None)]
    except OSError:
        resolved = []
    if any(not ipaddress.ip_address(entry.partition("%")[0]).is_loopback for entry in resolved):
        return
    there = ", ".join(f"{name} ({own})" for name, own in _interfaces().items() if name != "lo")
    result = f"resolves to {resolved[0]}, where no other node can reach it" if resolved else "does not resolve"
    raise UsageError(f"this host's own name, {name}, {result}: name the network with --interface, one of: {there}")


def check_port_is_free(host: str, port: int) -> None:
    """Raise LaunchError if something listens on the port already."""
    family, _address = _resolve(host, port)
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise LaunchError(
                f"port {port} on {host} is taken ({error.strerror}); choose another in --rdzv-endpoint"
            ) from error


def wait_for_port(host: str, port: int, seconds: float) -> None:
    """Return once something listens there; raise LaunchError if nothing does for ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with socket.create_connection((host, port), timeout=5.0):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                raise LaunchError(f"node 0 did not answer at {host}:{port} within {seconds:g} s: {error}") from error
        time.sleep(0.2)


def _resolve(host: str, port: int) -> tuple[int, Any]:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    except OSError as error:
        raise LaunchError(f"--rdzv-endpoint: cannot find the host {host!r}: {error.strerror}") from error
    return family, address


def _interfaces() -> dict[str, str]:
    """Return each interface's IPv4 address, of those that have one."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _index, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                found[name] = socket.inet_ntoa(answer[20:24])
    return found
