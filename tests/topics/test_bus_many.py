"""Publish many events together, and find one record among many, on a real broker."""

import asyncio
import logging
import threading
from collections import Counter
from typing import Any

import pytest

from esper.topics.bus import (
    Bus,
    OffsetRange,
    Producer,
    RecordPosition,
    RecordTooLarge,
    TracedEvent,
    find_record,
    partition_of,
    read_topic,
)
from esper.topics.catalog import MAX_MESSAGE_BYTES, Cleanup, Topic
from esper.topics.codec import Headers, decode
from esper.topics.models import SeedReport
from tests.topics.conftest import PARTITIONS, Consumed, neighbour_of, outage, report
from tests.waiting import wait_until


def publish_all(servers: str, topic: Topic, reports: list[SeedReport]) -> None:
    """Publish from an event loop, as workers do."""

    async def publish() -> None:
        producer = Producer(servers, source="/esper/test")
        try:
            await producer.publish_all(topic, [TracedEvent(event) for event in reports])
        finally:
            await producer.stop()

    asyncio.run(publish())


def test_many_events_are_published_in_order_within_each_key(servers: str, topic: Topic) -> None:
    publish_all(servers, topic, [report(run, seq) for seq in range(20) for run in ("a", "b", "c")])
    for run in ("a", "b", "c"):
        found = read_topic(servers, topic.name, key=run.encode())
        assert [decode(SeedReport, record.value).seq for record in found] == list(range(20))


class WatchedProducer(Producer):
    """A producer that counts its pending records, by key and in total."""

    def __init__(self, servers: str) -> None:
        super().__init__(servers, source="/esper/test")
        self._pending: Counter[bytes | None] = Counter()
        self.most_pending_of_a_key = 0
        self.most_pending = 0

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        partition_key: bytes | None = None,
    ) -> RecordPosition:
        self._pending[key] += 1
        self.most_pending_of_a_key = max(self.most_pending_of_a_key, *self._pending.values())
        self.most_pending = max(self.most_pending, self._pending.total())
        try:
            return await super().send(topic, key, value, headers, partition_key)
        finally:
            self._pending[key] -= 1


def test_keys_are_sent_concurrently_and_records_of_a_key_one_after_another(
    servers: str, topic: Topic
) -> None:
    async def publish() -> WatchedProducer:
        producer = WatchedProducer(servers)
        reports = [report(run, seq) for seq in range(5) for run in ("a", "b", "c")]
        await producer.publish_all(topic, [TracedEvent(event) for event in reports])
        await producer.stop()
        return producer

    watched = asyncio.run(publish())
    assert watched.most_pending_of_a_key == 1
    assert watched.most_pending == 3


def test_an_outage_leaves_no_gap_and_no_disorder_within_a_key(
    kafka: Any,
    servers: str,
    topic: Topic,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The client library retries, or fails after the short timeout and `Producer` retries."""
    monkeypatch.setattr("esper.topics.bus.producer.REQUEST_TIMEOUT_S", 1.0)
    # A worker that another test ran in this process has silenced the client library.
    monkeypatch.setattr(logging.getLogger("aiokafka"), "propagate", True)
    caplog.set_level(logging.WARNING, logger="aiokafka")
    broker_stopped = threading.Event()
    send = Producer.send

    async def send_half_during_the_outage(
        producer: Producer, topic: str, key: bytes | None, value: bytes, *rest: Any
    ) -> RecordPosition:
        if decode(SeedReport, value).seq >= 20:
            await asyncio.to_thread(broker_stopped.wait)
        return await send(producer, topic, key, value, *rest)

    monkeypatch.setattr(Producer, "send", send_half_during_the_outage)
    runs = [f"run-{number}" for number in range(6)]
    reports = [report(run, seq) for seq in range(40) for run in runs]
    publishing = threading.Thread(target=publish_all, args=(servers, topic, reports), daemon=True)
    publishing.start()
    wait_until(lambda: read_topic(servers, topic.name), "the first records")
    with outage(kafka):
        broker_stopped.set()
        wait_until(
            # The client library logs every failed attempt to connect, the producer its first retry.
            lambda: (
                caplog.text.count("Unable connect to node") >= 5
                or "the broker does not acknowledge" in caplog.text
            ),
            "5 failed attempts, or a failed send",
        )
    publishing.join(120)
    assert not publishing.is_alive()
    for run in runs:
        first = Consumed(read_topic(servers, topic.name, key=run.encode())).seqs()
        assert first == list(range(40)), "order of first occurrences"


def test_an_event_that_is_too_large_is_an_error_and_later_events_of_its_key_are_not_sent(
    servers: str, topic: Topic
) -> None:
    wide = report("run", 0).model_copy(update={"run_id": "r" * (MAX_MESSAGE_BYTES + 1)})
    named = Topic(topic.name, SeedReport, "step", PARTITIONS, Cleanup.DELETE, "By step.")
    with pytest.raises(ExceptionGroup) as refusal:
        publish_all(servers, named, [wide, report("run", 0)])
    assert refusal.group_contains(RecordTooLarge)
    assert read_topic(servers, topic.name) == []


def test_a_record_is_found_only_inside_the_offset_range(
    servers: str, bus: Bus, topic: Topic
) -> None:
    neighbour = neighbour_of("mine")
    for seq in range(5):
        bus.publish(topic, report("mine", seq)).result(60)
        bus.publish(topic, report(neighbour, seq)).result(60)
    partition = partition_of(b"mine", PARTITIONS)

    def offset_of(seq: int, start: int, stop: int) -> int | None:
        span = OffsetRange(topic.name, partition, start, stop)
        found = asyncio.run(
            find_record(
                servers, span, b"mine", lambda record: decode(SeedReport, record.value).seq == seq
            )
        )
        return found.offset if found else None

    assert offset_of(3, 0, 10) == 6
    assert offset_of(3, 6, 7) == 6
    assert offset_of(3, 0, 6) is None
    assert offset_of(3, 7, 10) is None
    assert offset_of(3, 6, 6) is None
