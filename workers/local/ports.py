"""Loopback ports that a service keeps over restarts."""

from __future__ import annotations

import random
import socket
from pathlib import Path

from esper.workers.local.errors import PortError

LOOPBACK = "127.0.0.1"

# Below the ephemeral range: while a server is down, neither a stranger's outgoing connection nor a
# reconnecting client (TCP self-connect) can occupy its port and keep it from coming back.
PORT_RANGE = range(20_000, 32_768)
ATTEMPTS = 100


def free_port() -> int:
    """A loopback port that nothing listens on. Raises PortError."""
    for port in random.sample(PORT_RANGE, ATTEMPTS):
        if is_free(port):
            return port
    raise PortError(
        f"{ATTEMPTS} ports tried on {LOOPBACK} between {PORT_RANGE[0]} and {PORT_RANGE[-1]}, "
        "all in use: stop some servers on this machine"
    )


def remembered_port(file: Path) -> int:
    """The port noted in `file`; a free one, noted there, when the file does not exist."""
    if file.exists():
        return int(file.read_text())
    port = free_port()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{port}\n")
    return port


def require_free(port: int, owner: str, file: Path) -> None:
    """Raise PortError when another process listens on the port that `owner` keeps in `file`."""
    if not is_free(port):
        raise PortError(
            f"{owner} needs port {port}, which another process uses: "
            f"stop that process, or delete {file} to have a new port chosen"
        )


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections of an earlier server in TIME_WAIT are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
