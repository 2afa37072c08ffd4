"""Real workers on the session's broker and Redis, as `esper up` runs them."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from confluent_kafka import Producer

from esper.settings import Settings
from esper.topics.bus import Bus
from esper.topics.catalog import BLUEPRINT_SUBMITTED
from esper.workers.local import CAN_DIE_WITH_PARENT, LocalStack


@dataclass(frozen=True)
class Running:
    """A stack of workers, and the settings that reach it."""

    stack: LocalStack
    settings: Settings


@pytest.fixture(scope="module")
def running(
    kafka: Any, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """Compile and bandit worker on the session's services; stopped after the module."""
    addresses = {
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "ESPER_REDIS_URL": redis_url,
    }
    home = tmp_path_factory.mktemp("stack")
    stack = LocalStack(home, environment=os.environ | addresses)
    stack.start(lambda line: None, die_with_parent=CAN_DIE_WITH_PARENT)
    try:
        yield Running(stack, Settings(ESPER_HOME=home, **addresses))
    finally:
        stack.stop()


@pytest.fixture
def bus(running: Running) -> Iterator[Bus]:
    """A bus to the session's broker."""
    bus = Bus.connect(running.settings.kafka_bootstrap_servers, source="/esper/test")
    try:
        yield bus
    finally:
        bus.close()


def publish_as_foreign_client(running: Running, *blueprints: bytes) -> None:
    """Publish with librdkafka: gzip, no keys, no headers."""
    producer = Producer(
        {
            "bootstrap.servers": running.settings.kafka_bootstrap_servers,
            "compression.type": "gzip",
            "message.max.bytes": 50_000_000,
        }
    )
    errors: list[Any] = []
    for value in blueprints:
        producer.produce(
            BLUEPRINT_SUBMITTED.name, value, on_delivery=lambda error, _: errors.append(error)
        )
    producer.flush(60)
    assert errors == [None] * len(blueprints)
