"""The follower on a real broker: an index that knows whether it has read everything."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from esper.topics.bus import Bus, Follower, Producer, Record, TopicMismatch, partition_of
from esper.topics.catalog import Topic
from tests.topics.conftest import PARTITIONS, outage, report

RUN = "followed"


def followed(
    servers: str, topic: Topic, scene: Callable[[Follower, list[Record], Producer], Awaitable[None]]
) -> None:
    """Run a scene with a follower of a topic, its records, and a producer."""

    async def play() -> None:
        records: list[Record] = []
        follower = Follower(servers, (topic.name, topic.dead_letters), records.append)
        producer = Producer(servers, source="/esper/test")
        try:
            await scene(follower, records, producer)
        finally:
            await follower.stop()
            await producer.stop()

    asyncio.run(play())


def test_whatever_the_topic_had_at_the_call_is_delivered(
    servers: str, topic: Topic, bus: Bus
) -> None:
    for number in range(40):
        bus.publish(topic, report(f"run-{number}", 0)).result(60)

    async def scene(follower: Follower, records: list[Record], producer: Producer) -> None:
        await follower.caught_up()
        assert len(records) == 40
        for seq in range(1, 6):
            await producer.publish(topic, report(RUN, seq))
            await follower.caught_up({topic.name: partition_of(RUN.encode(), PARTITIONS)})
            assert len(records) == 40 + seq
        await producer.send(topic.name, RUN.encode(), None, ())
        await follower.caught_up()
        assert records[-1].value is None

    followed(servers, topic, scene)


def test_a_record_that_cannot_be_handled_is_passed_over(servers: str, topic: Topic) -> None:
    handled: list[int] = []

    def handle(record: Record) -> None:
        if record.offset == 1:
            raise LookupError("not this one")
        handled.append(record.offset)

    async def play() -> None:
        producer = Producer(servers, source="/esper/test")
        follower = Follower(servers, (topic.name,), handle)
        for seq in range(3):
            await producer.publish(topic, report(RUN, seq))
        await follower.caught_up()
        await follower.stop()
        await producer.stop()

    asyncio.run(play())
    assert handled == [0, 2]


@pytest.mark.heavy
def test_an_outage_delays_and_loses_nothing(kafka: Any, servers: str, topic: Topic) -> None:
    async def scene(follower: Follower, records: list[Record], producer: Producer) -> None:
        await producer.publish(topic, report(RUN, 0))
        await follower.caught_up()
        with outage(kafka):
            waiting = asyncio.create_task(follower.caught_up())
            await asyncio.sleep(0)
        await producer.publish(topic, report(RUN, 1))
        await waiting
        await follower.caught_up()
        assert len(records) == 2

    followed(servers, topic, scene)


def test_a_missing_topic_is_named(servers: str) -> None:
    follower = Follower(servers, ("no-such-topic",), lambda record: None)
    with pytest.raises(TopicMismatch, match="no-such-topic"):
        asyncio.run(follower.caught_up())
