"""How each part of the local stack is, asked of the part itself."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from esper.workers.local import kafka_probe, process, redis
from esper.workers.local.process import ProcessRecord
from esper.workers.local.state import KAFKA, REDIS, WORKERS, StackState
from esper.workers.local.worker import is_healthy, metrics_address


class Health(StrEnum):
    """How a part is, seen from outside."""

    RUNNING = "running"
    NOT_ANSWERING = "not answering"
    STOPPED = "stopped"


@dataclass(frozen=True)
class ServiceStatus:
    """One line of `esper status`; a running service without a pid is not ours."""

    name: str
    health: Health
    address: str | None = None
    pid: int | None = None
    log: Path | None = None


def service_statuses(state: StackState | None) -> list[ServiceStatus]:
    """Kafka, Redis and the workers, in this order; all stopped when there is no state."""
    if state is None:
        return [ServiceStatus(name, Health.STOPPED) for name in (KAFKA, REDIS, *WORKERS)]
    broker, redis_url = state.kafka_bootstrap_servers, state.redis_url
    services = [
        _service_status(KAFKA, broker, state.process(KAFKA), answers=kafka_probe.answers(broker)),
        _service_status(REDIS, redis_url, state.process(REDIS), answers=redis.answers(redis_url)),
    ]
    return services + [_worker_status(name, state.process(name)) for name in WORKERS]


def _service_status(
    name: str, address: str, record: ProcessRecord | None, *, answers: bool
) -> ServiceStatus:
    """A service is as it answers; who does not answer is stopped only if it was ours and ended."""
    if record is None:  # The environment named it: it is not ours to know more about.
        return ServiceStatus(name, Health.RUNNING if answers else Health.NOT_ANSWERING, address)
    return _process_status(record, address, answers=answers)


def _worker_status(name: str, record: ProcessRecord | None) -> ServiceStatus:
    if record is None:
        return ServiceStatus(name, Health.STOPPED)
    return _process_status(record, metrics_address(record), answers=is_healthy(record))


def _process_status(record: ProcessRecord, address: str, *, answers: bool) -> ServiceStatus:
    if not process.is_alive(record):
        return ServiceStatus(record.name, Health.STOPPED, log=record.log)
    health = Health.RUNNING if answers else Health.NOT_ANSWERING
    return ServiceStatus(record.name, health, address, record.pid, record.log)
