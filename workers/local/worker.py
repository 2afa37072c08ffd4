"""A worker process of the local stack: command, environment and health."""

from __future__ import annotations

import os
import socket
import sys
import zlib
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from esper.workers.local import process
from esper.workers.local.ports import LOOPBACK, free_port
from esper.workers.local.process import ProcessRecord
from esper.workers.local.state import StackState, kind_of

START_TIMEOUT_S = 60.0
HEALTH_TIMEOUT_S = 1.0


def spawn_worker(
    name: str, home: Path, state: StackState, *, die_with_parent: bool
) -> ProcessRecord:
    """Start a worker with the addresses of `state`; return before it is ready.

    `name` is a kind of worker, or such a kind with a number, as in `compile-2`.
    """
    port = free_port()
    record = process.spawn(
        name,
        [sys.executable, "-m", "esper.workers", "worker", kind_of(name)],
        log=home / "workers" / f"{name}.log",
        environment=os.environ | _environment(name, home, state, port),
        die_with_parent=die_with_parent,
    )
    return record.model_copy(update={"metrics_port": port})


def wait_until_healthy(record: ProcessRecord) -> None:
    """Return when the worker is healthy; raise StartError if it is not in time."""
    process.wait_until_ready(record, lambda: is_healthy(record), START_TIMEOUT_S)


def is_healthy(record: ProcessRecord) -> bool:
    """Return whether the worker answers `GET /healthz` with 200."""
    connection = HTTPConnection(LOOPBACK, record.metrics_port, timeout=HEALTH_TIMEOUT_S)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def metrics_address(record: ProcessRecord) -> str:
    """Return the base URL of the worker's `/metrics` and `/healthz`."""
    return f"http://{LOOPBACK}:{record.metrics_port}"


def _environment(name: str, home: Path, state: StackState, port: int) -> dict[str, str]:
    return {
        "ESPER_HOME": str(home),
        "KAFKA_BOOTSTRAP_SERVERS": state.kafka_bootstrap_servers,
        "ESPER_REDIS_URL": state.redis_url,
        "ESPER_KERNEL_STORE": state.kernel_store,
        "ESPER_SIGNING_KEY_FILE": str(state.signing_key_file),
        "ESPER_TRUSTED_KEY_FILE": str(state.trusted_key_file),
        "ESPER_INSTANCE_ID": _instance_id(name, home),
        "ESPER_METRICS_PORT": str(port),
    }


def _instance_id(name: str, home: Path) -> str:
    """Return an id that is the same at each start, so that a restart causes no rebalance.

    It differs between machines and folders: equal ids on one broker would fence each other.
    """
    return f"{name}-{socket.gethostname()}-{zlib.crc32(str(home).encode()):08x}"
