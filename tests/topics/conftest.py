"""Topics of a single test on the session's broker, and helpers to produce and consume."""

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from esper.topics.bus import Bus, Record, partition_counts, partition_of
from esper.topics.catalog import MAX_MESSAGE_BYTES, Cleanup, Topic
from esper.topics.codec import decode
from esper.topics.models import SeedReport
from tests.waiting import TIMEOUT_S, wait_until

PARTITIONS = 12


def report(run_id: str, seq: int) -> SeedReport:
    return SeedReport(run_id=run_id, seq=seq, step=seq * 20)


class Consumed(list[Record]):
    """The records that a consumer delivered."""

    def seqs(self) -> list[int]:
        """Return the sequence numbers without repeats."""
        return list(dict.fromkeys(decode(SeedReport, record.value).seq for record in self))


def neighbour_of(run_id: str) -> str:
    """Return the id of another run whose records are in the same partition."""
    partition = partition_of(run_id.encode(), PARTITIONS)
    names = (f"neighbour-{number}" for number in range(1000))
    return next(name for name in names if partition_of(name.encode(), PARTITIONS) == partition)


def make_topic(servers: str, name: str, partitions: int, **config: str) -> str:
    admin = AdminClient({"bootstrap.servers": servers})
    admin.create_topics([NewTopic(name, partitions, 1, config=config)])[name].result(TIMEOUT_S)
    wait_until(lambda: name in asyncio.run(partition_counts(servers)), f"topic {name}")
    return name


@pytest.fixture
def servers(kafka: Any) -> str:
    return str(kafka.bootstrap_servers)


@pytest.fixture
def topic(servers: str) -> Topic:
    """A topic of this test, with its dead-letter topic."""
    name = f"bus-{secrets.token_hex(4)}"
    limit = {"max.message.bytes": str(MAX_MESSAGE_BYTES)}
    made = Topic(name, SeedReport, "run_id", PARTITIONS, Cleanup.DELETE, "Reports of a test.")
    make_topic(servers, made.name, PARTITIONS, **limit)
    make_topic(servers, made.dead_letters, 1, **limit)
    return made


@pytest.fixture
def bus(servers: str) -> Iterator[Bus]:
    connected = Bus.connect(servers, source="/esper/test")
    yield connected
    connected.close()


@contextmanager
def outage(kafka: Any) -> Iterator[None]:
    """Stop the broker inside the block; start it again with the same address and data."""
    kafka.stop()
    try:
        yield
    finally:
        kafka.start()
