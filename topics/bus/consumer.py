"""Read a topic from its earliest offset to its present end."""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import TopicAuthorizationFailedError
from aiokafka.partitioner import murmur2

from esper.topics.bus.admin import partition_counts
from esper.topics.bus.connection import connect
from esper.topics.bus.diagnosis import forbidden_topics
from esper.topics.bus.errors import AccessDenied, BrokerUnreachable, TopicMismatch
from esper.topics.bus.record import Record
from esper.topics.bus.security import client_options
from esper.topics.bus.unreadable import read_past_unreadable_records
from esper.topics.catalog import MAX_MESSAGE_BYTES, is_partitioned_by_key
from esper.topics.connection import Broker

log = logging.getLogger(__name__)

POLL_MS = 1_000

FETCH_WAIT_MS = 200
"""How long the broker holds a fetch of a consumer that also asks for offsets.

It answers the requests of a connection in turn, so that these wait for the fetch.
"""

STALL_TIMEOUT_S = 10.0
"""Longest wait for the next records; the broker then counts as unreachable."""


class OffsetRange(NamedTuple):
    """The offsets of a partition from `start` up to, and without, `stop`."""

    topic: str
    partition: int
    start: int
    stop: int


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of a key by Kafka's default partitioner (murmur2)."""
    return int((murmur2(key) & 0x7FFFFFFF) % partitions)


def read_topic(
    broker: Broker,
    topic: str,
    *,
    key: bytes | None = None,
    partition_keys: Collection[bytes] | None = None,
) -> list[Record]:
    """Return all records of a topic up to its present end, in order within each partition.

    With `key`, return the records of that key only, and read only the partition of the key. With
    `partition_keys`, read only the partitions of these (see `Topic.partition_key_of`). Unreadable
    records are logged and left out.

    Raises:
        BrokerUnreachable: no broker answers, or it stopped answering.
        ConnectionRefused, AccessDenied: the broker refuses this client.
        TopicMismatch: the topic does not exist.
    """
    partition_keys = keys_of_partitions(topic, key, partition_keys)
    if partition_keys is not None and not partition_keys:
        return []
    return asyncio.run(_read(broker, topic, key, partition_keys))


def keys_of_partitions(
    topic: str, key: bytes | None, partition_keys: Collection[bytes] | None
) -> Collection[bytes] | None:
    """Return the keys of the partitions to read for `key`, if it determines one; None for all."""
    return [key] if key is not None and is_partitioned_by_key(topic) else partition_keys


async def _read(
    broker: Broker, topic: str, key: bytes | None, partition_keys: Collection[bytes] | None
) -> list[Record]:
    consumer = new_consumer(broker)
    try:
        partitions = await assign(consumer, broker, topic, partition_keys)
        await consumer.seek_to_beginning(*partitions)
        return await _drain(consumer, key)
    except TimeoutError as error:
        raise BrokerUnreachable(broker) from error
    except TopicAuthorizationFailedError as error:
        raise AccessDenied(broker, "Read", "topic", [topic]) from error
    finally:
        await consumer.stop()


async def find_record(
    broker: Broker,
    offsets: OffsetRange,
    key: bytes,
    wanted: Callable[[Record], bool],
) -> Record | None:
    """Return the first record of a key in an offset range for which `wanted` is true, or None.

    Raises:
        BrokerUnreachable: no broker answers, or it stopped answering.
    """
    if offsets.start >= offsets.stop:
        return None
    consumer = new_consumer(broker)
    partition = TopicPartition(offsets.topic, offsets.partition)
    try:
        await connect(consumer, broker)
        consumer.assign([partition])
        consumer.seek(partition, offsets.start)
        return await _first(consumer, partition, offsets.stop, key, wanted)
    except TimeoutError as error:
        raise BrokerUnreachable(broker) from error
    except TopicAuthorizationFailedError as error:
        raise AccessDenied(broker, "Read", "topic", [offsets.topic]) from error
    finally:
        await consumer.stop()


async def _first(
    consumer: AIOKafkaConsumer,
    partition: TopicPartition,
    stop: int,
    key: bytes,
    wanted: Callable[[Record], bool],
) -> Record | None:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(STALL_TIMEOUT_S) as limit:
        while await consumer.position(partition) < stop:
            for message in (await consumer.getmany(timeout_ms=POLL_MS)).get(partition, ()):
                limit.reschedule(loop.time() + STALL_TIMEOUT_S)
                if message.offset >= stop:
                    return None
                record = Record.from_client(message)
                if is_readable(record) and record.key == key and wanted(record):
                    return record
    return None


async def _drain(consumer: AIOKafkaConsumer, key: bytes | None) -> list[Record]:
    found: list[Record] = []
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(STALL_TIMEOUT_S) as limit:
        ends = await consumer.end_offsets(list(consumer.assignment()))
        while any([await consumer.position(partition) < end for partition, end in ends.items()]):
            for partition, messages in (await consumer.getmany(timeout_ms=POLL_MS)).items():
                limit.reschedule(loop.time() + STALL_TIMEOUT_S)
                records = (
                    Record.from_client(message)
                    for message in messages
                    if message.offset < ends[partition]
                )
                found += [
                    record
                    for record in records
                    if is_readable(record) and key in (None, record.key)
                ]
    return found


def is_readable(record: Record) -> bool:
    """Return whether a record was decoded; log it otherwise."""
    if record.unreadable is None:
        return True
    log.warning("%s is passed over: %s", record.place, record.unreadable)
    return False


def new_consumer(broker: Broker, *, fetch_wait_ms: int = FETCH_WAIT_MS) -> AIOKafkaConsumer:
    """Return an unstarted consumer without a group, which commits no offsets.

    The broker answers a fetch when there is a record, or after `fetch_wait_ms`.
    """
    read_past_unreadable_records()
    return AIOKafkaConsumer(
        **client_options(broker),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=fetch_wait_ms,
        max_partition_fetch_bytes=MAX_MESSAGE_BYTES,
    )


async def assign(
    consumer: AIOKafkaConsumer,
    broker: Broker,
    topic: str,
    partition_keys: Collection[bytes] | None = None,
) -> list[TopicPartition]:
    """Start a consumer on all partitions of a topic, or on those of keys; return the partitions.

    Raises:
        BrokerUnreachable, ConnectionRefused, AccessDenied, TopicMismatch: see `read_topic`.
    """
    count = (await partition_counts(broker)).get(topic)
    if count is None:
        if await forbidden_topics(broker, [topic]):
            raise AccessDenied(broker, "Read", "topic", [topic])
        raise TopicMismatch(
            f"no topic {topic!r} on the broker; create it with `esper topics create`"
        )
    indices: Iterable[int] = range(count)
    if partition_keys is not None:
        indices = sorted({partition_of(key, count) for key in partition_keys})
    partitions = [TopicPartition(topic, index) for index in indices]
    await connect(consumer, broker)
    consumer.assign(partitions)
    return partitions
