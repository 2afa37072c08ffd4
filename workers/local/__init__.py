"""Kafka, Redis, PostgreSQL and the workers as processes on this machine, without Docker or root.

In: a folder (`ESPER_HOME`). Out: servers on free loopback ports, topics, keys, workers, and
`stack.json`, which holds their addresses for every other command. The servers come from pip
packages. Names are imported on first use, so that `python -m` can run a module of this package.
"""

from typing import TYPE_CHECKING

from esper.lazy import lazy_attributes

if TYPE_CHECKING:
    from esper.workers.local.errors import (
        DownloadError,
        LocalServiceError,
        MissingPackageError,
        NotRunningError,
        PortError,
        StartError,
        StateError,
        StopError,
    )
    from esper.workers.local.kafka import KafkaService
    from esper.workers.local.postgres import PostgresService
    from esper.workers.local.process import CAN_DIE_WITH_PARENT, ProcessRecord
    from esper.workers.local.redis import RedisService
    from esper.workers.local.stack import LocalStack, running_stack
    from esper.workers.local.state import StackState, read_state
    from esper.workers.local.status import Health, ServiceStatus
    from esper.workers.local.worker import is_healthy, metrics_address, spawn_worker

_MODULES = {
    "CAN_DIE_WITH_PARENT": ".process",
    "DownloadError": ".errors",
    "Health": ".status",
    "KafkaService": ".kafka",
    "LocalServiceError": ".errors",
    "LocalStack": ".stack",
    "MissingPackageError": ".errors",
    "NotRunningError": ".errors",
    "PortError": ".errors",
    "PostgresService": ".postgres",
    "ProcessRecord": ".process",
    "RedisService": ".redis",
    "ServiceStatus": ".status",
    "StackState": ".state",
    "StartError": ".errors",
    "StateError": ".errors",
    "StopError": ".errors",
    "is_healthy": ".worker",
    "metrics_address": ".worker",
    "read_state": ".state",
    "running_stack": ".stack",
    "spawn_worker": ".worker",
}

__all__ = [
    "CAN_DIE_WITH_PARENT",
    "DownloadError",
    "Health",
    "KafkaService",
    "LocalServiceError",
    "LocalStack",
    "MissingPackageError",
    "NotRunningError",
    "PortError",
    "PostgresService",
    "ProcessRecord",
    "RedisService",
    "ServiceStatus",
    "StackState",
    "StartError",
    "StateError",
    "StopError",
    "is_healthy",
    "metrics_address",
    "read_state",
    "running_stack",
    "spawn_worker",
]


__getattr__ = lazy_attributes(__name__, _MODULES)
