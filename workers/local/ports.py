"""Loopback ports that a service keeps across restarts."""

from __future__ import annotations

import random
import socket
from pathlib import Path

from esper.workers.local.errors import PortError

LOOPBACK = "127.0.0.1"

# Below the ephemeral range: while a server is down, no outgoing connection and no reconnecting
# client (TCP self-connect) can occupy its port.
PORT_RANGE = range(20_000, 32_768)
ATTEMPTS = 100


def free_port() -> int:
    """Return a free loopback port; raise PortError if none is found."""
    for port in random.sample(PORT_RANGE, ATTEMPTS):
        if is_free(port):
            return port
    raise PortError(
        f"no free port on {LOOPBACK} in {ATTEMPTS} tries between {PORT_RANGE[0]} and "
        f"{PORT_RANGE[-1]}: stop some servers on this machine"
    )


def stored_port(file: Path) -> int:
    """Return the port stored in `file`; if the file does not exist, store a free port there."""
    if file.exists():
        return int(file.read_text())
    port = free_port()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{port}\n")
    return port


def require_free(port: int, owner: str, file: Path) -> None:
    """Raise PortError if another process uses the port of `owner`, which is stored in `file`."""
    if not is_free(port):
        raise PortError(
            f"{owner} needs port {port}, which another process uses: "
            f"stop that process, or delete {file} to choose a new port"
        )


def is_free(port: int) -> bool:
    """Return whether a server can listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: ignore TIME_WAIT connections of an earlier server.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
