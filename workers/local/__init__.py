"""Kafka, Redis and the workers as processes on this machine: no Docker, Java or root needed.

In: a folder (`ESPER_HOME`). Out: servers on free loopback ports, topics, keys, workers, and
`stack.json`, which holds their addresses for every other command. Servers come from pip packages.
"""

from esper.workers.local import process
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
from esper.workers.local.process import CAN_DIE_WITH_PARENT, ProcessRecord
from esper.workers.local.redis import RedisService
from esper.workers.local.stack import LocalStack, running_stack
from esper.workers.local.state import StackState, read_state
from esper.workers.local.status import Health, ServiceStatus
from esper.workers.local.worker import is_healthy, metrics_address, spawn_worker

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
    "ProcessRecord",
    "RedisService",
    "ServiceStatus",
    "StackState",
    "StartError",
    "StateError",
    "StopError",
    "is_healthy",
    "metrics_address",
    "process",
    "read_state",
    "running_stack",
    "spawn_worker",
]
