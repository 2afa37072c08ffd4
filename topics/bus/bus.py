"""The bus for threads: an event loop on a thread of its own, behind a synchronous face."""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from enum import Enum
from functools import partial
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from esper.topics.bus.connection import CONNECT_TIMEOUT_S
from esper.topics.bus.consumer import assign, new_consumer
from esper.topics.bus.errors import BrokerUnreachable
from esper.topics.bus.producer import RETRY_PAUSE_S, Producer, RecordPosition
from esper.topics.bus.record import Record
from esper.topics.catalog import Topic
from esper.topics.models import Event

log = logging.getLogger(__name__)

T = TypeVar("T")
Deliver = Callable[[Record], None]

DISCONNECT_TIMEOUT_S = 0.5
"""How long parting from the broker may take once nothing is under way."""


class StartOffset(Enum):
    """From where a follower reads."""

    EARLIEST = "earliest"
    LATEST = "latest"


class Bus:
    """Publishes without waiting and follows topics, while the caller's thread does other things.

    Callbacks given to `follow` run on the bus's thread and must return quickly.
    """

    def __init__(self, bootstrap_servers: str, *, source: str) -> None:
        self._bootstrap_servers = bootstrap_servers
        self._publisher = Producer(bootstrap_servers, source=source)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="esper-bus", daemon=True)
        self._followers: list[Future[None]] = []
        self._under_way: set[Future[RecordPosition]] = set()

    @classmethod
    def connect(cls, bootstrap_servers: str, *, source: str) -> "Bus":
        """Return a connected bus.

        Raises:
            BrokerUnreachable: no broker answered within five seconds.
        """
        bus = cls(bootstrap_servers, source=source)
        bus._thread.start()
        try:
            bus._submit(bus._publisher.start()).result()
        except BaseException:
            bus.close()
            raise
        return bus

    def publish(
        self, topic: Topic, event: Event, *, traceparent: str | None = None
    ) -> "Future[RecordPosition]":
        """Hand an event over and return at once; the future ends when the broker has it.

        While the broker is away the future stays pending. Cancelling it gives the event up. Events
        handed over without waiting may be written in another order; who needs one waits.
        """
        return self._sent(self._publisher.publish(topic, event, traceparent=traceparent))

    def send(self, topic: str, key: bytes | None, value: bytes) -> "Future[RecordPosition]":
        """Like `publish`, for bytes that are sent as they are."""
        return self._sent(self._publisher.send(topic, key, value, ()))

    def consume(
        self,
        topic: str,
        deliver: Deliver,
        *,
        key: bytes | None = None,
        start: StartOffset = StartOffset.LATEST,
    ) -> None:
        """Call `deliver` with each record, of one key or of all, from `start` on, until `close`.

        Returns when the position is fixed: a record written afterwards will be delivered. An
        outage of the broker delays delivery and loses nothing.

        Raises:
            BrokerUnreachable, TopicMismatch: there is no broker, or no such topic.
        """
        consumer = self._submit(self._position(topic, key, start)).result()
        follower = self._submit(_deliver_all(consumer, deliver, key))
        follower.add_done_callback(partial(_say_why, topic))
        self._followers.append(follower)

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop following, give what is under way `timeout_s` to arrive, and end the thread.

        What has not arrived by then is given up, with a warning; its futures are cancelled.
        """
        if not self._thread.is_alive():
            return
        for follower in self._followers:
            follower.cancel()
        late = wait(self._under_way.copy(), timeout_s).not_done
        if late:
            log.warning("%d records are given up: the broker did not confirm them", len(late))
        for sending in late:
            sending.cancel()
        self._submit(self._part()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    async def _part(self) -> None:
        try:
            async with asyncio.timeout(DISCONNECT_TIMEOUT_S):
                await self._publisher.stop()
        except TimeoutError:
            log.debug("the broker did not answer the farewell")
        await _cancel_all()

    async def _position(
        self, topic: str, key: bytes | None, start: StartOffset
    ) -> AIOKafkaConsumer:
        consumer = new_consumer(self._bootstrap_servers)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                partitions = await assign(consumer, self._bootstrap_servers, topic, key)
                # Both wait until the broker has told the offsets.
                if start is StartOffset.EARLIEST:
                    await consumer.seek_to_beginning(*partitions)
                else:
                    await consumer.seek_to_end(*partitions)
        except TimeoutError as error:
            await consumer.stop()
            raise BrokerUnreachable(self._bootstrap_servers) from error
        except BaseException:
            await consumer.stop()
            raise
        return consumer

    def _sent(self, work: Coroutine[Any, Any, RecordPosition]) -> "Future[RecordPosition]":
        sending = self._submit(work)
        self._under_way.add(sending)
        sending.add_done_callback(self._under_way.discard)
        return sending

    def _submit(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        return asyncio.run_coroutine_threadsafe(work, self._loop)


async def _deliver_all(consumer: AIOKafkaConsumer, deliver: Deliver, key: bytes | None) -> None:
    try:
        while True:
            try:
                message = await consumer.getone()
            except KafkaError as error:
                log.warning("the broker does not answer (%s); trying again", error)
                await asyncio.sleep(RETRY_PAUSE_S)
                continue
            if key in (None, message.key):
                deliver(Record.from_client(message))
    finally:
        await consumer.stop()


def _say_why(topic: str, follower: "Future[None]") -> None:
    """A follower ends only when it is cancelled, or when its callback fails."""
    if not follower.cancelled() and (error := follower.exception()):
        log.error("nothing follows %s any more: its callback failed", topic, exc_info=error)


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
