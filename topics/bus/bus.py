"""The Kafka client for threads: a synchronous interface to an event loop on a second thread."""

import asyncio
import logging
import threading
from collections.abc import Callable, Collection, Coroutine
from concurrent.futures import Future, wait
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError

from esper.topics.bus.connection import CONNECT_TIMEOUT_S
from esper.topics.bus.consumer import assign, is_readable, keys_of_partitions, new_consumer
from esper.topics.bus.errors import AccessDenied, BrokerUnreachable
from esper.topics.bus.producer import RETRY_PAUSE_S, Producer, RecordPosition, Sign
from esper.topics.bus.record import Record
from esper.topics.catalog import Topic
from esper.topics.codec import Headers
from esper.topics.connection import Broker
from esper.topics.models import Event

log = logging.getLogger(__name__)

T = TypeVar("T")
Deliver = Callable[[Record], None]
OnLost = Callable[[str], None]

DISCONNECT_TIMEOUT_S = 0.5
"""Longest disconnect once no send is pending."""


FETCH_WAIT_MS = 5_000
"""How long the broker holds a fetch without records; a thousand trainers fetch at the same time."""


class StartOffset(Enum):
    """The offset from which a consumer reads."""

    EARLIEST = "earliest"
    LATEST = "latest"


@dataclass(slots=True)
class Received:
    """The records that consumers received, and their bytes: keys, values and headers."""

    records: int = 0
    bytes: int = 0

    def add(self, record: Record) -> None:
        """Count a record."""
        self.records += 1
        self.bytes += len(record.key or b"") + len(record.value or b"")
        self.bytes += sum(len(name) + len(value or b"") for name, value in record.headers)


class Subscription:
    """The delivery of a topic's records."""

    def __init__(self, delivery: "Future[None] | None") -> None:
        self._delivery = delivery

    def close(self) -> None:
        """Stop the delivery soon; callable from any thread."""
        if self._delivery is not None:
            self._delivery.cancel()


class Bus:
    """A producer and consumers that never block the caller's thread.

    The callbacks of `consume` run on the bus's thread and must return quickly. `on_lost` gets the
    name of a topic that is no longer read, because its consumer has ended by an unexpected error.
    """

    def __init__(self, broker: Broker, *, source: str, on_lost: OnLost | None = None) -> None:
        self.received: dict[str, Received] = {}
        """What consumers received so far, by topic; also records of other keys than consumed."""
        self._broker = broker
        self._on_lost = on_lost
        self._producer = Producer(broker, source=source)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="esper-bus", daemon=True)
        self._consumers: list[Future[None]] = []
        self._pending: set[Future[RecordPosition]] = set()

    @classmethod
    def connect(cls, broker: Broker, *, source: str, on_lost: OnLost | None = None) -> "Bus":
        """Return a connected bus; see the class.

        Raises:
            BrokerUnreachable: no broker answered within `CONNECT_TIMEOUT_S`.
            ConnectionRefused: a broker answered, and TLS or the log-in failed.
        """
        bus = cls(broker, source=source, on_lost=on_lost)
        bus._thread.start()
        try:
            bus._submit(bus._producer.start()).result()
        except BaseException:
            bus.close()
            raise
        return bus

    def publish(
        self,
        topic: Topic,
        event: Event,
        *,
        traceparent: str | None = None,
        sign: Sign | None = None,
    ) -> "Future[RecordPosition]":
        """Send an event; return a future of its record's position, set on acknowledgement.

        `sign` makes the signature in its headers. The future stays pending while the broker is
        unreachable; cancel it to drop the event. Events with pending futures may be written in
        another order: await a future before the next call where order matters.
        """
        return self._sent(self._producer.publish(topic, event, traceparent=traceparent, sign=sign))

    def withdraw(self, topic: Topic, event: Event) -> "Future[RecordPosition]":
        """Send the tombstone of a published event; see `publish`."""
        return self._sent(self._producer.withdraw(topic, event))

    def send(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = ()
    ) -> "Future[RecordPosition]":
        """Send bytes unchanged to a topic that is partitioned by key; see `publish`."""
        return self._sent(self._producer.send(topic, key, value, headers))

    def consume(
        self,
        topic: str,
        deliver: Deliver,
        *,
        key: bytes | None = None,
        partition_keys: Collection[bytes] | None = None,
        start: StartOffset = StartOffset.LATEST,
    ) -> Subscription:
        """Call `deliver` with each record from `start` on, of one key or of all, until `close`.

        With `partition_keys`, read only the partitions of these (see `Topic.partition_key_of`).
        Returns when the start offsets are known: records written afterwards are delivered. A broker
        outage delays delivery and loses no record.

        Raises:
            BrokerUnreachable: no broker answers.
            TopicMismatch: the topic does not exist.
            AccessDenied: this client may not read it.
        """
        partition_keys = keys_of_partitions(topic, key, partition_keys)
        if partition_keys is not None and not partition_keys:
            return Subscription(None)
        consumer = self._submit(self._consumer_at(topic, partition_keys, start)).result()
        received = self.received.setdefault(topic, Received())
        delivery = self._submit(_deliver_all(consumer, deliver, key, received))
        delivery.add_done_callback(partial(self._note_failure, topic))
        self._consumers.append(delivery)
        return Subscription(delivery)

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop consuming, wait up to `timeout_s` for pending sends, and end the thread.

        Logs a warning and cancels the futures of sends that are still pending.
        """
        if not self._thread.is_alive():
            return
        for delivery in self._consumers:
            delivery.cancel()
        unsent = wait(self._pending.copy(), timeout_s).not_done
        if unsent:
            log.warning("dropped %d records: the broker did not acknowledge them", len(unsent))
        for sending in unsent:
            sending.cancel()
        self._submit(self._disconnect()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _note_failure(self, topic: str, delivery: "Future[None]") -> None:
        """Log why a consumer ended, unless it was cancelled, and pass its topic on."""
        if delivery.cancelled() or (error := delivery.exception()) is None:
            return
        if isinstance(error, TopicAuthorizationFailedError):
            denied = AccessDenied(self._broker, "Read", "topic", [topic])
            log.error("stopped consuming %s: %s", topic, denied)
        else:
            log.error("stopped consuming %s", topic, exc_info=error)
        if self._on_lost is not None:
            self._on_lost(topic)

    def _run(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    async def _disconnect(self) -> None:
        try:
            async with asyncio.timeout(DISCONNECT_TIMEOUT_S):
                await self._producer.stop()
        except TimeoutError:
            log.debug("the broker did not answer within %s s of closing", DISCONNECT_TIMEOUT_S)
        await _cancel_all()

    async def _consumer_at(
        self, topic: str, partition_keys: Collection[bytes] | None, start: StartOffset
    ) -> AIOKafkaConsumer:
        consumer = new_consumer(self._broker, fetch_wait_ms=FETCH_WAIT_MS)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                partitions = await assign(consumer, self._broker, topic, partition_keys)
                # Where an offset is asked for twice, a held fetch would delay the second answer.
                consumer.pause(*partitions)
                # Both calls wait for the broker's answer with the offsets.
                if start is StartOffset.EARLIEST:
                    await consumer.seek_to_beginning(*partitions)
                else:
                    await consumer.seek_to_end(*partitions)
                consumer.resume(*partitions)
        except TimeoutError as error:
            await consumer.stop()
            raise BrokerUnreachable(self._broker) from error
        except BaseException:
            await consumer.stop()
            raise
        return consumer

    def _sent(self, work: Coroutine[Any, Any, RecordPosition]) -> "Future[RecordPosition]":
        sending = self._submit(work)
        self._pending.add(sending)
        sending.add_done_callback(self._pending.discard)
        return sending

    def _submit(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        return asyncio.run_coroutine_threadsafe(work, self._loop)


async def _deliver_all(
    consumer: AIOKafkaConsumer, deliver: Deliver, key: bytes | None, received: Received
) -> None:
    try:
        while True:
            try:
                message = await consumer.getone()
            except TopicAuthorizationFailedError:
                raise
            except KafkaError as error:
                log.warning("the broker does not answer (%s); retrying", error)
                await asyncio.sleep(RETRY_PAUSE_S)
                continue
            record = Record.from_client(message)
            received.add(record)
            _deliver(record, deliver, key)
    finally:
        await consumer.stop()


def _deliver(record: Record, deliver: Deliver, key: bytes | None) -> None:
    """Pass a record on; one that cannot be read or handled is logged and passed over."""
    if is_readable(record) and key in (None, record.key):
        try:
            deliver(record)
        except Exception:
            log.exception("%s is passed over: it could not be handled", record.place)


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
