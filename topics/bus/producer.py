"""Publishing from an event loop: confirmed, idempotent, and patient with a broker that is away."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from esper.topics.bus.connection import connect
from esper.topics.bus.errors import BrokerUnreachable, RecordTooLarge
from esper.topics.bus.record import Record
from esper.topics.catalog import MAX_MESSAGE_BYTES, Topic
from esper.topics.codec import Headers, cloud_event_headers, encode
from esper.topics.models import Event

log = logging.getLogger(__name__)

RETRY_PAUSE_S = 0.25

REQUEST_TIMEOUT_S = 10.0
"""After this the client library gives a record up, and `Producer` hands it over again."""

MAX_DEAD_LETTER_BYTES = 64 * 1024 * 1024


class RecordPosition(NamedTuple):
    """Where the broker put a record."""

    topic: str
    partition: int
    offset: int


class TracedEvent(NamedTuple):
    """An event to publish, and the trace that it belongs to."""

    event: Event
    traceparent: str | None = None


class Producer:
    """A producer whose `publish` returns when all in-sync replicas have the record.

    While the broker is away, `publish` waits and tries again; a record may then be written twice,
    which every reader of Esper's topics tolerates.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        source: str,
        compression: str | None = None,
        max_record_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self._bootstrap_servers = bootstrap_servers
        self._source = source
        self._compression = compression
        self._max_record_bytes = max_record_bytes
        self._client: AIOKafkaProducer | None = None
        self._connecting = asyncio.Lock()
        self._undertaker: Producer | None = None

    async def start(self) -> None:
        """Connect.

        Raises:
            BrokerUnreachable: no broker answers.
        """
        await self._connected()

    async def stop(self) -> None:
        """Flush what is under way and disconnect; returns at once if never started."""
        if self._undertaker is not None:
            await self._undertaker.stop()
        await self._drop(self._client)

    async def publish(
        self, topic: Topic, event: Event, *, traceparent: str | None = None
    ) -> RecordPosition:
        """Send an event to its topic and wait until the broker has it.

        Raises:
            RecordTooLarge: the record is larger than the topic takes.
        """
        value = encode(event)
        headers = cloud_event_headers(
            type(event).__name__, value, source=self._source, traceparent=traceparent
        )
        return await self.send(topic.name, topic.key_of(event), value, headers)

    async def publish_all(self, topic: Topic, events: Iterable[TracedEvent]) -> None:
        """Publish events and return when the broker has all of them, in order within each key.

        Keys go side by side. Of one key the next event is sent when the one before is confirmed:
        whatever fails and is sent again, its record has no hole and is never out of order.

        Raises:
            ExceptionGroup: of `RecordTooLarge`, see `publish`; of its key nothing more was sent.
        """
        by_key: dict[bytes, list[TracedEvent]] = {}
        for traced in events:
            by_key.setdefault(topic.key_of(traced.event), []).append(traced)
        async with asyncio.TaskGroup() as tasks:
            for in_turn in by_key.values():
                tasks.create_task(self._publish_in_turn(topic, in_turn))

    async def _publish_in_turn(self, topic: Topic, events: Iterable[TracedEvent]) -> None:
        for event, traceparent in events:
            await self.publish(topic, event, traceparent=traceparent)

    async def send_to_dlq(self, record: Record, reason: str) -> RecordPosition:
        """Put a record's untouched bytes on its topic's dead letters, with reason and origin.

        A value that the broker will not take again, even compressed, stays where it is: the dead
        letter then has the header `dlq-value-bytes` in its place.
        """
        origin: Headers = (
            ("dlq-reason", reason.encode()),
            ("dlq-topic", record.topic.encode()),
            ("dlq-partition", str(record.partition).encode()),
            ("dlq-offset", str(record.offset).encode()),
        )
        topic, headers = f"{record.topic}.dlq", (*record.headers, *origin)
        if self._undertaker is None:
            # Its sender may have compressed the record to get it past the broker's limit.
            self._undertaker = Producer(
                self._bootstrap_servers,
                source=self._source,
                compression="gzip",
                max_record_bytes=MAX_DEAD_LETTER_BYTES,
            )
        try:
            return await self._undertaker.send(topic, record.key, record.value, headers)
        except RecordTooLarge:
            size = str(len(record.value or b"")).encode()
            return await self.send(topic, record.key, None, (*headers, ("dlq-value-bytes", size)))

    async def send(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers
    ) -> RecordPosition:
        """Send bytes and wait until the broker has them; see `publish`."""
        say_once = _once(log.warning)
        while True:
            try:
                return await self._send_once(topic, key, value, headers)
            except MessageSizeTooLargeError as error:
                size = len(value or b"")
                raise RecordTooLarge(f"{topic}: a record of {size} bytes is too large") from error
            except (KafkaError, BrokerUnreachable) as error:
                say_once("%s: the broker does not confirm (%s); trying again", topic, error)
                await asyncio.sleep(RETRY_PAUSE_S)

    async def _send_once(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers
    ) -> RecordPosition:
        if key is None and value is None:
            # The client library does not send such a record, which others may well have sent us.
            value = b""
        producer = await self._connected()
        try:
            metadata = await producer.send_and_wait(
                topic, value=value, key=key, headers=list(headers)
            )
        except KafkaError as error:
            if not error.retriable:
                # An idempotent producer is spent after a fatal error; the next try makes a new one.
                await self._drop(producer)
            raise
        return RecordPosition(metadata.topic, metadata.partition, metadata.offset)

    async def _connected(self) -> AIOKafkaProducer:
        async with self._connecting:
            if self._client is None:
                self._client = await self._new_client()
            return self._client

    async def _new_client(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap_servers,
            enable_idempotence=True,
            acks="all",
            max_request_size=self._max_record_bytes,
            compression_type=self._compression,
            request_timeout_ms=int(REQUEST_TIMEOUT_S * 1000),
        )
        try:
            await connect(producer, self._bootstrap_servers)
        except BaseException:
            await producer.stop()
            raise
        return producer

    async def _drop(self, producer: AIOKafkaProducer | None) -> None:
        """Stop a producer, unless another task has replaced it already."""
        if producer is self._client and producer is not None:
            self._client = None
            await producer.stop()


def _once(say: Callable[..., None]) -> Callable[..., None]:
    said = False

    def say_first(*message: object) -> None:
        nonlocal said
        if not said:
            said = True
            say(*message)

    return say_first
