"""Health of each service of the local stack, from a request to the service."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from esper.store import without_password
from esper.topics.connection import Broker, SecurityProtocol, connection_to
from esper.workers.local import kafka_probe, postgres, process, redis
from esper.workers.local.process import ProcessRecord
from esper.workers.local.state import KAFKA, POSTGRES, REDIS, SUPERVISOR, WORKERS, StackState
from esper.workers.local.worker import is_healthy, metrics_address


class Health(StrEnum):
    """Health of a service."""

    RUNNING = "running"
    NOT_ANSWERING = "not answering"
    STOPPED = "stopped"


@dataclass(frozen=True)
class ServiceStatus:
    """One line of `esper status`; a service without a pid was not started by the stack."""

    name: str
    health: Health
    address: str | None = None
    pid: int | None = None
    log: Path | None = None
    restarts: int = 0


def service_statuses(
    state: StackState | None, kafka: Broker = "", redis_ca_file: str | None = None
) -> list[ServiceStatus]:
    """Return the status of Kafka, Redis, PostgreSQL if it is used, the workers and the supervisor.

    All are stopped without a state. `kafka` is the connection to the broker of `state`,
    `redis_ca_file` the CA of its Redis.
    """
    if state is None:
        return [ServiceStatus(name, Health.STOPPED) for name in (KAFKA, REDIS, *WORKERS)]
    addresses = {
        KAFKA: state.kafka_bootstrap_servers,
        REDIS: without_password(state.redis_url),
    }
    if (url := state.postgres_url) is not None:
        addresses[POSTGRES] = postgres.address_of(url)
    services = [
        _service_status(
            name, address, state.process(name), answers=answers(name, state, kafka, redis_ca_file)
        )
        for name, address in addresses.items()
    ]
    services += [_worker_status(name, state.process(name)) for name in state.workers]
    if (supervisor := state.process(SUPERVISOR)) is not None:
        services.append(_process_status(supervisor, None, answers=True))
    return [replace(one, restarts=state.restarts.get(one.name, 0)) for one in services]


def answers(
    name: str, state: StackState, kafka: Broker = "", redis_ca_file: str | None = None
) -> bool:
    """Return whether a service or a worker answers; see `service_statuses`."""
    if name == KAFKA:
        return _kafka_answers(kafka or state.kafka_bootstrap_servers)
    if name == REDIS:
        return redis.is_answering(state.redis_url, redis_ca_file)
    if name == POSTGRES:
        return postgres.is_answering(state.postgres_url or "")
    return is_healthy(state.require_process(name))


def _kafka_answers(kafka: Broker) -> bool:
    connection = connection_to(kafka)
    if connection.security_protocol is SecurityProtocol.PLAINTEXT:
        return kafka_probe.is_answering(connection.bootstrap_servers)
    # Imported here: the Kafka client takes a third of a second.
    from esper.topics.bus import BusError, partition_counts

    try:
        asyncio.run(partition_counts(connection))
    except BusError:
        return False
    return True


def _service_status(
    name: str, address: str, record: ProcessRecord | None, *, answers: bool
) -> ServiceStatus:
    """Return RUNNING if the service answers, STOPPED only if the stack started it and it ended."""
    if record is None:  # Named by the environment, not started by the stack.
        return ServiceStatus(name, Health.RUNNING if answers else Health.NOT_ANSWERING, address)
    return _process_status(record, address, answers=answers)


def _worker_status(name: str, record: ProcessRecord | None) -> ServiceStatus:
    if record is None:
        return ServiceStatus(name, Health.STOPPED)
    return _process_status(record, metrics_address(record), answers=is_healthy(record))


def _process_status(record: ProcessRecord, address: str | None, *, answers: bool) -> ServiceStatus:
    if not process.is_alive(record):
        return ServiceStatus(record.name, Health.STOPPED, log=record.log)
    health = Health.RUNNING if answers else Health.NOT_ANSWERING
    return ServiceStatus(record.name, health, address, record.pid, record.log)
