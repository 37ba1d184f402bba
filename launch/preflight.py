"""Checks before anything is started: the script, the log folder, LOGLEVEL and the network interface."""

import contextlib
import fcntl
import ipaddress
import logging
import os
import re
import resource
import socket
import struct
import sys
from difflib import get_close_matches
from pathlib import Path

from .errors import LaunchError, UsageError
from .options import LaunchOptions

__all__ = [
    "allow_open_files",
    "check_host_name",
    "check_interface",
    "check_log_level",
    "check_target",
    "interface_addresses",
    "make_log_dir",
]

_SIOCGIFADDR = 0x8915


def check_target(options: LaunchOptions) -> None:
    """Raise UsageError if Python can't run the script, or if ``-m`` is given a path."""
    name = options.script
    if options.module:
        is_script = name.endswith(".py") or (os.path.isfile(name) and not os.path.isfile(f"{name}.py"))
        if not name or name.startswith(".") or os.sep in name or is_script:
            raise UsageError(f"-m must name a module such as package.train, got {name!r}; a script needs no -m")
    elif not os.path.exists(name):
        raise UsageError(f"there is no script {name!r}{_where(name)}{_advice(name)}")
    elif os.path.isdir(name) and not os.path.exists(os.path.join(name, "__main__.py")):
        raise UsageError(f"the folder {name!r} has no __main__.py to run; name a script")
    elif not os.access(name, os.R_OK):
        raise UsageError(f"cannot read the script {name!r}: Permission denied")


def _where(name: str) -> str:
    return "" if os.path.isabs(name) else f" in {_working_folder()}"


def _advice(name: str) -> str:
    folder, base = os.path.split(name)
    if re.fullmatch(r"python[0-9.]*", base):
        return f"; leave out {name!r}, the launcher runs the script with {sys.executable}"
    with contextlib.suppress(OSError):
        near = get_close_matches(base, [entry for entry in os.listdir(folder or ".") if entry.endswith(".py")])
        if near:
            return f"; did you mean {os.path.join(folder, near[0])}?"
    return ""


def make_log_dir(folder: str | None) -> None:
    """Create the log folder, if there is to be one; raise UsageError if that isn't possible."""
    if folder is None:
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--log-dir must be a folder to write to, got {folder!r}: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"--log-dir must be a folder to write to, got {folder!r}: Permission denied")


def check_log_level() -> None:
    """Raise UsageError if LOGLEVEL, which torch's launcher reads when it is imported, would make it fail."""
    level = os.environ.get("LOGLEVEL")
    if level is not None and level not in logging.getLevelNamesMapping():
        names = ", ".join(logging.getLevelNamesMapping())
        raise UsageError(f"LOGLEVEL must be one of {names}, got {level!r}; torch's launcher reads it")


def allow_open_files(nodes: int, processes: int) -> None:
    """Raise the limit of open files to what node 0's launcher needs; raise LaunchError if the system doesn't allow it.

    Args:
        nodes: most nodes of the run.
        processes: workers on each node.
    """
    # Two connections of each launcher, a short one when it joins, and those of each worker's process groups.
    needed = 256 + 4 * nodes + 2 * nodes * processes
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if needed <= soft:
        return
    if hard < needed:
        raise LaunchError(
            f"{nodes} nodes of {processes} processes need up to {needed} open files on node 0, where the hard limit is "
            f"{hard}; raise it (ulimit -Hn)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def check_interface(name: str) -> None:
    """Raise UsageError if the network interface for gloo and NCCL doesn't exist or has no address."""
    available = interface_addresses()
    if name not in available:
        listing = ", ".join(f"{interface} ({address})" for interface, address in available.items())
        raise UsageError(f"--interface {name}: there is no such interface with an address; available: {listing}")


def check_host_name(address: str, interface: str | None) -> None:
    """Raise UsageError if gloo would give the other nodes a loopback address and then wait forever.

    Without an interface, gloo takes the address that the host's own name resolves to.
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
    available = ", ".join(f"{name} ({address})" for name, address in interface_addresses().items() if name != "lo")
    result = f"resolves to {resolved[0]}, which other nodes can't reach" if resolved else "does not resolve"
    raise UsageError(f"this host's name, {name}, {result}; choose a network with --interface, one of: {available}")


def interface_addresses() -> dict[str, str]:
    """Return the IPv4 address of each interface that has one."""
    addresses = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _index, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                addresses[name] = socket.inet_ntoa(answer[20:24])
    return addresses


def _working_folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "the working folder, which was removed"
