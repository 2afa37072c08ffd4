"""Publishing many events at once, and finding one record among many, on a real broker."""

import asyncio
import threading
import time
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
from tests.topics.conftest import PARTITIONS, Heard, away, eventually, neighbour_of, report


def publish_all(servers: str, topic: Topic, reports: list[SeedReport]) -> None:
    """Publish from an event loop, as the workers do."""

    async def publish() -> None:
        producer = Producer(servers, source="/esper/test")
        try:
            await producer.publish_all(topic, [TracedEvent(each) for each in reports])
        finally:
            await producer.stop()

    asyncio.run(publish())


def test_many_events_are_published_in_order_within_each_key(servers: str, topic: Topic) -> None:
    publish_all(servers, topic, [report(run, seq) for seq in range(20) for run in ("a", "b", "c")])
    for run in ("a", "b", "c"):
        found = read_topic(servers, topic.name, key=run.encode())
        assert [decode(SeedReport, record.value).seq for record in found] == list(range(20))


class WatchedProducer(Producer):
    """A producer that counts how many records it has under way, of each key and of all."""

    def __init__(self, servers: str) -> None:
        super().__init__(servers, source="/esper/test")
        self._under_way: Counter[bytes | None] = Counter()
        self.most_of_a_key = 0
        self.most_of_all = 0

    async def send(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers
    ) -> RecordPosition:
        self._under_way[key] += 1
        self.most_of_a_key = max(self.most_of_a_key, *self._under_way.values())
        self.most_of_all = max(self.most_of_all, self._under_way.total())
        try:
            return await super().send(topic, key, value, headers)
        finally:
            self._under_way[key] -= 1


def test_keys_go_side_by_side_and_of_a_key_one_record_waits_for_the_one_before(
    servers: str, topic: Topic
) -> None:
    async def publish() -> WatchedProducer:
        producer = WatchedProducer(servers)
        reports = [report(run, seq) for seq in range(5) for run in ("a", "b", "c")]
        await producer.publish_all(topic, [TracedEvent(each) for each in reports])
        await producer.stop()
        return producer

    watched = asyncio.run(publish())
    assert watched.most_of_a_key == 1
    assert watched.most_of_all == 3


def test_an_outage_leaves_no_hole_and_no_disorder_within_a_key(
    kafka: Any, servers: str, topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client library gives records up here, so that the producer sends them again."""
    monkeypatch.setattr("esper.topics.bus.producer.REQUEST_TIMEOUT_S", 0.3)
    runs = [f"run-{number}" for number in range(6)]
    reports = [report(run, seq) for seq in range(40) for run in runs]
    publishing = threading.Thread(target=publish_all, args=(servers, topic, reports))
    publishing.start()
    eventually(lambda: read_topic(servers, topic.name))
    with away(kafka):
        time.sleep(2.0)
    publishing.join(60)
    assert not publishing.is_alive()
    for run in runs:
        first = Heard(read_topic(servers, topic.name, key=run.encode())).seqs()
        assert first == list(range(40)), "the first time that each is there, repeats left out"


def test_an_event_that_is_too_large_is_unpublishable_and_what_follows_it_is_not_sent(
    servers: str, topic: Topic
) -> None:
    wide = report("run", 0).model_copy(update={"run_id": "r" * (MAX_MESSAGE_BYTES + 1)})
    named = Topic(topic.name, SeedReport, "step", PARTITIONS, Cleanup.DELETE, "By step.")
    with pytest.raises(ExceptionGroup) as refusal:
        publish_all(servers, named, [wide, report("run", 0)])
    assert refusal.group_contains(RecordTooLarge)
    assert read_topic(servers, topic.name) == []


def test_a_record_is_found_in_the_part_of_a_partition_that_is_asked_for(
    servers: str, bus: Bus, topic: Topic
) -> None:
    neighbour = neighbour_of("mine")
    for seq in range(5):
        bus.publish(topic, report("mine", seq)).result(10)
        bus.publish(topic, report(neighbour, seq)).result(10)
    partition = partition_of(b"mine", PARTITIONS)

    def offset_of(seq: int, start: int, stop: int) -> int | None:
        span = OffsetRange(topic.name, partition, start, stop)
        found = asyncio.run(
            find_record(
                servers, span, b"mine", lambda each: decode(SeedReport, each.value).seq == seq
            )
        )
        return found.offset if found else None

    assert offset_of(3, 0, 10) == 6
    assert offset_of(3, 6, 7) == 6
    assert offset_of(3, 0, 6) is None
    assert offset_of(3, 7, 10) is None
    assert offset_of(3, 6, 6) is None
