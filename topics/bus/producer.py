"""An asyncio producer: acknowledged, idempotent, and retrying while the broker is unreachable."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaError,
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
)

from esper.topics.bus.connection import connect
from esper.topics.bus.consumer import partition_of
from esper.topics.bus.dead_letter import dead_letter_headers, dead_letter_key
from esper.topics.bus.diagnosis import why_unconnected
from esper.topics.bus.errors import (
    AccessDenied,
    BrokerUnreachable,
    ConnectionRefused,
    RecordTooLarge,
)
from esper.topics.bus.record import Record
from esper.topics.bus.security import client_options
from esper.topics.catalog import MAX_MESSAGE_BYTES, Topic, is_partitioned_by_key
from esper.topics.codec import Headers, cloud_event_headers, encode
from esper.topics.connection import Broker, SecurityProtocol, connection_to
from esper.topics.models import Event

log = logging.getLogger(__name__)

RETRY_PAUSE_S = 0.25

REQUEST_TIMEOUT_S = 10.0
"""Timeout of the client library for one record; `Producer` then sends the record again."""

MAX_DEAD_LETTER_BYTES = 64 * 1024 * 1024


class RecordPosition(NamedTuple):
    """The coordinates of a written record."""

    topic: str
    partition: int
    offset: int


class TracedEvent(NamedTuple):
    """An event to publish, and the `traceparent` of its trace."""

    event: Event
    traceparent: str | None = None


Sign = Callable[[bytes], str]
"""Returns the hexadecimal signature of an event's value."""


class Producer:
    """A producer whose `publish` returns when all in-sync replicas have the record.

    While the broker is unreachable, `publish` retries. A record may then be written twice; every
    consumer of Esper's topics ignores repeats.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        source: str,
        compression: str | None = None,
        max_record_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self._broker = broker
        self._source = source
        self._compression = compression
        self._max_record_bytes = max_record_bytes
        self._client: AIOKafkaProducer | None = None
        self._connecting = asyncio.Lock()
        self._dlq_producer: Producer | None = None

    async def start(self) -> None:
        """Connect.

        Raises:
            BrokerUnreachable: no broker answers.
            ConnectionRefused: a broker answered, and TLS or the log-in failed.
        """
        # A client that may write to no topic gets no producer id; it may still read.
        with suppress(ClusterAuthorizationFailedError):
            await self._connected()

    async def stop(self) -> None:
        """Flush pending sends and disconnect; return immediately if never started."""
        if self._dlq_producer is not None:
            await self._dlq_producer.stop()
        await self._drop(self._client)

    async def publish(
        self,
        topic: Topic,
        event: Event,
        *,
        traceparent: str | None = None,
        sign: Sign | None = None,
    ) -> RecordPosition:
        """Send an event to its topic and wait for the acknowledgement.

        `sign` makes the signature that goes into its headers.

        Raises:
            RecordTooLarge: the record is larger than the topic accepts.
            AccessDenied: this client may not write to the topic.
            ConnectionRefused: the broker no longer accepts this client's certificate or password.
        """
        value = encode(event)
        headers = cloud_event_headers(
            type(event).__name__,
            value,
            source=self._source,
            traceparent=traceparent,
            signature=None if sign is None else sign(value),
        )
        return await self._send_event(topic, event, value, headers)

    async def withdraw(self, topic: Topic, event: Event) -> RecordPosition:
        """Send a tombstone to the partition of a published event; see `publish`."""
        return await self._send_event(topic, event, None, ())

    async def _send_event(
        self, topic: Topic, event: Event, value: bytes | None, headers: Headers
    ) -> RecordPosition:
        """Send a value under the key of an event, to the event's partition."""
        partition_key = topic.partition_key_of(event) if topic.partition_field else None
        return await self.send(topic.name, topic.key_of(event), value, headers, partition_key)

    async def publish_all(
        self, topic: Topic, events: Iterable[TracedEvent], *, sign: Sign | None = None
    ) -> None:
        """Publish events and return when all are acknowledged, in order within each key.

        Keys are sent concurrently. Within a key, an event is sent after the acknowledgement of the
        previous one, so that retries leave neither gaps nor disorder.

        Raises:
            ExceptionGroup: of `RecordTooLarge`, see `publish`; its key's later events are not sent.
        """
        by_key: dict[bytes, list[TracedEvent]] = {}
        for traced in events:
            by_key.setdefault(topic.key_of(traced.event), []).append(traced)
        async with asyncio.TaskGroup() as tasks:
            for ordered in by_key.values():
                tasks.create_task(self._publish_in_order(topic, ordered, sign))

    async def _publish_in_order(
        self, topic: Topic, events: Iterable[TracedEvent], sign: Sign | None
    ) -> None:
        for event, traceparent in events:
            await self.publish(topic, event, traceparent=traceparent, sign=sign)

    async def send_to_dlq(self, record: Record, reason: str) -> RecordPosition:
        """Copy a record to its topic's dead-letter topic, with headers for reason and origin.

        Long keys and headers are cut (see `dead_letter_headers`). A value that is too large even
        when compressed is not copied: the dead letter then has a header `dlq-value-bytes` with its
        size. The copy of an unreadable record has its coordinates only.
        """
        topic, key = f"{record.topic}.dlq", dead_letter_key(record)
        headers = dead_letter_headers(record, reason)
        if self._dlq_producer is None:
            # The record's producer may have compressed it to fit the broker's limit.
            self._dlq_producer = Producer(
                self._broker,
                source=self._source,
                compression="gzip",
                max_record_bytes=MAX_DEAD_LETTER_BYTES,
            )
        try:
            return await self._dlq_producer.send(topic, key, record.value, headers)
        except RecordTooLarge:
            size = str(len(record.value or b"")).encode()
            return await self.send(topic, key, None, (*headers, ("dlq-value-bytes", size)))

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        partition_key: bytes | None = None,
    ) -> RecordPosition:
        """Send bytes and wait for the acknowledgement; see `publish`.

        The hash of `partition_key` is the partition; without one, that of the record's key.

        Raises:
            ValueError: the key does not determine the partition on this topic, and there is no
                `partition_key`.
        """
        if partition_key is None and not is_partitioned_by_key(topic):
            raise ValueError(
                f"{topic} is not partitioned by key: use publish or withdraw, or give the "
                "partition_key"
            )
        warn_once = _first_call_of(log.warning)
        while True:
            try:
                return await self._send_once(topic, key, value, headers, partition_key)
            except MessageSizeTooLargeError as error:
                size = len(value or b"")
                raise RecordTooLarge(
                    f"{topic}: a record of {size} bytes is too large; "
                    "send a smaller one, or raise the topic's max.message.bytes"
                ) from error
            except (KafkaError, BrokerUnreachable) as error:
                if _is_forbidden(error):
                    raise AccessDenied(self._broker, "Write", "topic", [topic]) from error
                warn_once("%s: the broker does not acknowledge (%s); retrying", topic, error)
                await asyncio.sleep(RETRY_PAUSE_S)

    async def _acknowledged(self, sending: Coroutine[Any, Any, Any]) -> Any:
        """Return the result of a send of the library.

        The library retries for ever, also after a password was changed or a certificate expired.

        Raises:
            ConnectionRefused: the broker no longer accepts this client.
        """
        if connection_to(self._broker).security_protocol is SecurityProtocol.PLAINTEXT:
            return await sending
        task = asyncio.ensure_future(sending)
        try:
            while not (await asyncio.wait({task}, timeout=REQUEST_TIMEOUT_S))[0]:
                async with self._connecting:  # one attempt at a time, for all pending sends
                    error = None if task.done() else await why_unconnected(self._broker)
                if isinstance(error, ConnectionRefused):
                    raise error
        except BaseException:
            task.cancel()
            raise
        return task.result()

    async def _send_once(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        partition_key: bytes | None,
    ) -> RecordPosition:
        if key is None and value is None:
            # The client library refuses a record without both, which other producers can send.
            value = b""
        producer = await self._connected()
        partition = None
        try:
            if partition_key is not None:
                partition = partition_of(partition_key, len(await producer.partitions_for(topic)))
            metadata = await self._acknowledged(
                producer.send_and_wait(
                    topic, value=value, key=key, partition=partition, headers=list(headers)
                )
            )
        except KafkaError as error:
            if not error.retriable:
                # A fatal error ends an idempotent producer; the next attempt makes a new one.
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
            **client_options(self._broker),
            enable_idempotence=True,
            acks="all",
            max_request_size=self._max_record_bytes,
            compression_type=self._compression,
            request_timeout_ms=int(REQUEST_TIMEOUT_S * 1000),
        )
        try:
            await connect(producer, self._broker)
        except BaseException:
            await producer.stop()
            raise
        return producer

    async def _drop(self, client: AIOKafkaProducer | None) -> None:
        """Stop a client, unless another task has replaced it."""
        if client is self._client and client is not None:
            self._client = None
            await client.stop()


def _is_forbidden(error: BaseException | None) -> bool:
    """Return whether access control caused an error.

    A client that may write to no topic at all is refused a producer id, not the topic.
    """
    denied = (TopicAuthorizationFailedError, ClusterAuthorizationFailedError)
    return error is not None and (isinstance(error, denied) or _is_forbidden(error.__cause__))


def _first_call_of(log_message: Callable[..., None]) -> Callable[..., None]:
    """Return a function that passes its first call on and ignores later ones."""
    logged = False

    def log_first(*message: object) -> None:
        nonlocal logged
        if not logged:
            logged = True
            log_message(*message)

    return log_first
