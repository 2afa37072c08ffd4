"""Follow topics from their beginning: an index of what they say, and whether it is up to date."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from esper.topics.bus.admin import partition_counts
from esper.topics.bus.connection import connect
from esper.topics.bus.consumer import is_readable, new_consumer
from esper.topics.bus.errors import BrokerUnreachable, TopicMismatch
from esper.topics.bus.producer import RETRY_PAUSE_S
from esper.topics.bus.record import Record
from esper.topics.connection import Broker

log = logging.getLogger(__name__)

POLL_MS = 200


class Follower:
    """Delivers every record of its topics, in order within each partition, on one event loop.

    The follower belongs to no consumer group and commits nothing: each process reads everything.
    """

    def __init__(
        self, broker: Broker, topics: Sequence[str], deliver: Callable[[Record], None]
    ) -> None:
        self._broker = broker
        self._topics = tuple(topics)
        self._deliver = deliver
        self._client: AIOKafkaConsumer | None = None
        # The broker answers a connection in order: there, the question where a topic ends would
        # wait behind a fetch that waits for records.
        self._asking: AIOKafkaConsumer | None = None
        self._starting = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None
        self._read_to: dict[TopicPartition, int] = {}
        self._polled = asyncio.Condition()

    async def caught_up(self, partitions: Mapping[str, int] | None = None) -> None:
        """Return when all records that the topics have at this call are delivered.

        With `partitions`, wait for that partition of each topic named there only. Waits while the
        broker is away; starts to read at the first call.

        Raises:
            TopicMismatch: a topic does not exist.
        """
        asking = await self._started()
        chosen = [
            at
            for at in self._read_to
            if partitions is None or partitions.get(at.topic) == at.partition
        ]
        while True:
            try:
                ends = await asking.end_offsets(chosen)
                break
            except KafkaError as error:
                log.warning("the broker does not say where topics end (%s); retrying", error)
                await asyncio.sleep(RETRY_PAUSE_S)
        async with self._polled:
            await self._polled.wait_for(
                lambda: all(self._read_to[at] >= end for at, end in ends.items())
            )

    async def stop(self) -> None:
        """Stop reading and disconnect; return immediately if never started."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        for client in (self._client, self._asking):
            if client is not None:
                await client.stop()

    async def _started(self) -> AIOKafkaConsumer:
        """Start to read; return the client that asks where topics end."""
        async with self._starting:
            while self._client is None or self._asking is None:
                try:
                    self._client = self._client or await self._reader()
                    self._asking = await self._connected()
                except BrokerUnreachable as error:
                    log.warning("%s; retrying", error)
                    await asyncio.sleep(RETRY_PAUSE_S)
            if self._reading is None:
                self._reading = asyncio.create_task(self._read_forever(self._client))
        return self._asking

    async def _connected(self) -> AIOKafkaConsumer:
        client = new_consumer(self._broker)
        try:
            await connect(client, self._broker)
        except BaseException:
            await client.stop()
            raise
        return client

    async def _reader(self) -> AIOKafkaConsumer:
        counts = await partition_counts(self._broker)
        if missing := [topic for topic in self._topics if topic not in counts]:
            raise TopicMismatch(
                f"no topic {missing[0]!r} on the broker; create it with `esper topics create`"
            )
        partitions = [
            TopicPartition(topic, index) for topic in self._topics for index in range(counts[topic])
        ]
        client = await self._connected()
        try:
            client.assign(partitions)
            await client.seek_to_beginning(*partitions)
        except BaseException:
            await client.stop()
            raise
        self._read_to = dict.fromkeys(partitions, 0)
        return client

    async def _read_forever(self, client: AIOKafkaConsumer) -> None:
        while True:
            try:
                fetched = await client.getmany(timeout_ms=POLL_MS)
            except KafkaError as error:
                log.warning("the broker does not answer (%s); retrying", error)
                await asyncio.sleep(RETRY_PAUSE_S)
                continue
            for messages in fetched.values():
                for message in messages:
                    self._pass_on(Record.from_client(message))
            # Positions, not offsets of records: the last offsets of a compacted topic may be gone.
            for partition in self._read_to:
                self._read_to[partition] = await client.position(partition)
            async with self._polled:
                self._polled.notify_all()

    def _pass_on(self, record: Record) -> None:
        """Deliver a record; one that cannot be read or handled is logged and passed over."""
        if is_readable(record):
            try:
                self._deliver(record)
            except Exception:
                log.exception("%s is passed over: it could not be handled", record.place)
