"""The bus, on a real broker: confirmed sends, patient followers, and an end to everything."""

import asyncio
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import psutil
import pytest

from esper.topics.bus import (
    BrokerUnreachable,
    Bus,
    Producer,
    Record,
    RecordPosition,
    RecordTooLarge,
    StartOffset,
    TopicMismatch,
    create_topics,
    create_topics_from,
    partition_counts,
    partition_of,
    read_topic,
)
from esper.topics.catalog import MAX_MESSAGE_BYTES, Topic, TopicSpec, topic_specs
from esper.topics.codec import encode, sha256_of, traceparent_of
from tests.topics.conftest import (
    PARTITIONS,
    Heard,
    away,
    eventually,
    make_topic,
    neighbour_of,
    report,
)


@pytest.fixture
def silent_server() -> Iterator[str]:
    """An address that takes connections and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"127.0.0.1:{server.getsockname()[1]}"


# -- the topics ---------------------------------------------------------------------------------


def test_creating_the_topics_twice_creates_them_once(servers: str) -> None:
    create_topics(servers)
    found = asyncio.run(partition_counts(servers))
    assert {spec.name: spec.partitions for spec in topic_specs()}.items() <= found.items()
    assert create_topics(servers) == []


def test_a_topic_of_another_partition_count_is_named_and_left_as_it_is(servers: str) -> None:
    name = make_topic(servers, f"bus-{secrets.token_hex(4)}", 2)
    absent = TopicSpec(f"{name}-absent", 1, ())
    with pytest.raises(TopicMismatch, match=f"{name} has 2 partitions and must have 3; delete it"):
        create_topics_from(servers, [absent, TopicSpec(name, 3, ())])
    found = asyncio.run(partition_counts(servers))
    assert found[name] == 2
    assert absent.name not in found


# -- publish, follow, read ----------------------------------------------------------------------


def test_a_published_event_is_on_its_topic_with_its_key_and_headers(
    servers: str, bus: Bus, topic: Topic
) -> None:
    before_ms = time.time() * 1000
    event = report("run-a", 0)
    position = bus.publish(topic, event).result(10)
    (record,) = read_topic(servers, topic.name)
    assert RecordPosition(record.topic, record.partition, record.offset) == position
    assert (record.key, record.value) == (b"run-a", encode(event))
    headers = dict(record.headers)
    assert headers["ce_id"] == sha256_of(encode(event)).encode()
    assert headers["ce_type"] == b"esper.SeedReport"
    assert headers["ce_source"] == b"/esper/test"
    assert traceparent_of(record.headers)
    assert before_ms - 1000 < record.timestamp_ms < time.time() * 1000 + 1000


def test_the_partition_of_a_key_is_the_one_the_producer_chooses(bus: Bus, topic: Topic) -> None:
    keys = [f"run-{number}" for number in range(60)]
    sent = {key: bus.publish(topic, report(key, 0)) for key in keys}
    chosen = {key: future.result(10).partition for key, future in sent.items()}
    assert chosen == {key: partition_of(key.encode(), PARTITIONS) for key in keys}
    assert len(set(chosen.values())) == PARTITIONS


def test_a_follower_of_a_key_hears_only_that_key(bus: Bus, topic: Topic) -> None:
    neighbour = neighbour_of("mine")
    heard = Heard()
    bus.consume(topic.name, heard.append, key=b"mine")
    for seq in range(3):
        bus.publish(topic, report(neighbour, seq)).result(10)
        bus.publish(topic, report("mine", seq)).result(10)
    eventually(lambda: len(heard) >= 3)
    assert [(record.key, record.value) for record in heard] == [
        (b"mine", encode(report("mine", seq))) for seq in range(3)
    ]


def test_a_follower_from_now_hears_what_is_written_after_it_returned_and_nothing_before(
    bus: Bus, topic: Topic
) -> None:
    followers = [Heard() for _ in range(8)]
    for seq, heard in enumerate(followers):
        bus.publish(topic, report("run", 2 * seq)).result(10)
        bus.consume(topic.name, heard.append, key=b"run", start=StartOffset.LATEST)
        bus.publish(topic, report("run", 2 * seq + 1)).result(10)
    last = 2 * len(followers) - 1
    for seq, heard in enumerate(followers):
        expected = list(range(2 * seq + 1, last + 1))
        eventually(lambda heard=heard, expected=expected: heard.seqs() == expected)


def test_a_follower_from_the_beginning_hears_everything(bus: Bus, topic: Topic) -> None:
    keys = [f"run-{number}" for number in range(10)]
    for future in [bus.publish(topic, report(key, 0)) for key in keys]:
        future.result(10)
    heard = Heard()
    bus.consume(topic.name, heard.append, start=StartOffset.EARLIEST)
    eventually(lambda: len(heard) == len(keys))
    assert {record.key for record in heard} == {key.encode() for key in keys}


def test_a_follower_whose_callback_fails_says_so(
    bus: Bus, topic: Topic, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(record: Record) -> None:
        raise RuntimeError("the callback is broken")

    bus.consume(topic.name, fail, start=StartOffset.EARLIEST)
    bus.publish(topic, report("run", 0)).result(10)
    eventually(lambda: "its callback failed" in caplog.text)
    assert f"nothing follows {topic.name} any more" in caplog.text
    assert "the callback is broken" in caplog.text


def test_reading_ends_at_the_present_end_and_keeps_the_order_of_a_key(
    servers: str, bus: Bus, topic: Topic
) -> None:
    assert read_topic(servers, topic.name) == []
    for seq in range(5):
        for run in ("a", neighbour_of("a")):
            bus.publish(topic, report(run, seq)).result(10)
    assert len(read_topic(servers, topic.name)) == 10
    assert Heard(read_topic(servers, topic.name, key=b"a")).seqs() == list(range(5))
    assert {record.key for record in read_topic(servers, topic.name, key=b"a")} == {b"a"}


@pytest.mark.parametrize("door", ["read", "follow"])
def test_a_topic_that_does_not_exist_is_an_error_with_the_remedy(
    servers: str, bus: Bus, door: str
) -> None:
    with pytest.raises(TopicMismatch, match=r"no topic 'no-such-topic'.*esper topics create"):
        if door == "read":
            read_topic(servers, "no-such-topic")
        else:
            bus.consume("no-such-topic", print)


# -- dead letters and records the broker will not take ------------------------------------------


def send_to_dlq(servers: str, record: Record) -> Record:
    """The dead letter of a record."""

    async def send() -> None:
        producer = Producer(servers, source="/esper/test")
        try:
            await producer.send_to_dlq(record, "no event of ours")
        finally:
            await producer.stop()

    asyncio.run(send())
    (letter,) = read_topic(servers, f"{record.topic}.dlq")
    return letter


@pytest.mark.parametrize(
    ("key", "value"),
    [(b"k\xff", b"\x00\xff not json"), (None, b"{}"), (b"k", None), (None, None)],
)
def test_a_dead_letter_keeps_key_value_and_headers_and_tells_its_origin(
    servers: str, topic: Topic, key: bytes | None, value: bytes | None
) -> None:
    record = Record(topic.name, 3, 17, 0, key, value, (("mine", b"\xff"), ("mine", b"again")))
    letter = send_to_dlq(servers, record)
    assert letter.key == key
    assert letter.value == (b"" if key is None and value is None else value)
    assert letter.headers == (
        ("mine", b"\xff"),
        ("mine", b"again"),
        ("dlq-reason", b"no event of ours"),
        ("dlq-topic", topic.name.encode()),
        ("dlq-partition", b"3"),
        ("dlq-offset", b"17"),
    )


@pytest.mark.parametrize("key", [None, b"k"])
def test_a_value_too_large_for_the_dead_letters_is_left_where_it_is(
    servers: str, topic: Topic, key: bytes | None
) -> None:
    value = secrets.token_bytes(MAX_MESSAGE_BYTES + 1000)
    letter = send_to_dlq(servers, Record(topic.name, 0, 5, 0, key, value))
    assert dict(letter.headers)["dlq-value-bytes"] == str(len(value)).encode()
    assert dict(letter.headers)["dlq-offset"] == b"5"
    assert not letter.value


def test_a_record_larger_than_any_topic_takes_is_unpublishable(bus: Bus, topic: Topic) -> None:
    with pytest.raises(RecordTooLarge, match=f"{topic.name}: a record of 4194305 bytes"):
        bus.send(topic.name, b"k", bytes(MAX_MESSAGE_BYTES + 1)).result(10)
    assert bus.publish(topic, report("run", 0)).result(10).topic == topic.name


def test_a_record_that_the_broker_finds_too_large_is_unpublishable(servers: str, bus: Bus) -> None:
    name = f"bus-{secrets.token_hex(4)}"
    make_topic(servers, name, 1, **{"max.message.bytes": "1000"})
    with pytest.raises(RecordTooLarge, match=f"{name}: a record of 2000 bytes is too large"):
        bus.send(name, b"k", secrets.token_bytes(2000)).result(10)
    assert bus.send(name, b"k", b"small").result(10).offset == 0


# -- no broker ----------------------------------------------------------------------------------


DOORS: dict[str, Callable[[str], object]] = {
    "connect": lambda servers: Bus.connect(servers, source="/esper/test"),
    "read": lambda servers: read_topic(servers, "seed-metrics"),
    "create_topics": create_topics,
}


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no.such.host.invalid:9092", "here:there"])
@pytest.mark.parametrize("door", DOORS)
def test_without_a_broker_there_is_one_line_that_says_what_to_do(door: str, address: str) -> None:
    threads = threading.active_count()
    begun = time.monotonic()
    with pytest.raises(BrokerUnreachable) as refusal:
        DOORS[door](address)
    assert time.monotonic() - begun < 6
    assert str(refusal.value) == (
        f"no Kafka broker answers at {address}; "
        "start one with `esper up`, or set KAFKA_BOOTSTRAP_SERVERS"
    )
    # A name is looked up on a thread, which takes a moment to end.
    eventually(lambda: threading.active_count() == threads)


def test_a_program_without_logging_prints_nothing_beside_that_line() -> None:
    program = """
from esper.topics.bus import BrokerUnreachable, Bus, read_topic
servers = "127.0.0.1:1"
for attempt in (lambda: Bus.connect(servers, source="/a"), lambda: read_topic(servers, "a")):
    try:
        attempt()
    except BrokerUnreachable:
        pass
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert ended.stdout + ended.stderr == b""


def test_a_server_that_never_answers_is_no_broker_after_five_seconds(silent_server: str) -> None:
    begun = time.monotonic()
    with pytest.raises(BrokerUnreachable):
        Bus.connect(silent_server, source="/esper/test")
    assert 4.5 < time.monotonic() - begun < 6


@pytest.mark.parametrize("door", ["read", "create_topics"])
def test_no_door_waits_longer_than_that(
    door: str, silent_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esper.topics.bus.connection.CONNECT_TIMEOUT_S", 0.3)
    begun = time.monotonic()
    with pytest.raises(BrokerUnreachable):
        DOORS[door](silent_server)
    assert time.monotonic() - begun < 3


def test_a_closed_bus_leaves_no_thread_and_no_file_open(servers: str, topic: Topic) -> None:
    def use_once() -> None:
        used = Bus.connect(servers, source="/esper/test")
        used.consume(topic.name, print)
        used.publish(topic, report("run", 0)).result(10)
        used.close()
        used.close()

    use_once()
    threads, files = threading.active_count(), psutil.Process().num_fds()
    for _ in range(3):
        use_once()
    assert threading.active_count() == threads
    assert psutil.Process().num_fds() <= files


# -- a broker that goes away --------------------------------------------------------------------


def test_an_outage_delays_records_and_loses_none(
    kafka: Any,
    servers: str,
    bus: Bus,
    topic: Topic,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither where the client library bridges the outage, nor where it gives up before.

    It gives up a record for a topic that its producer has not written to yet.
    """
    monkeypatch.setattr("esper.topics.bus.producer.REQUEST_TIMEOUT_S", 0.3)
    fresh = Bus.connect(servers, source="/esper/fresh")
    heard = {"known": Heard(), "fresh": Heard()}
    for run, records in heard.items():
        bus.consume(topic.name, records.append, key=run.encode())
    for seq in range(3):
        bus.publish(topic, report("known", seq)).result(10)
    with away(kafka):
        delayed = [
            bus.publish(topic, report("known", 3)),
            fresh.publish(topic, report("fresh", 0)),
        ]
        time.sleep(2.0)
        assert not any(future.done() for future in delayed)
    assert [future.result(30).topic for future in delayed] == [topic.name] * 2
    bus.publish(topic, report("known", 4)).result(30)
    eventually(lambda: heard["known"].seqs() == [0, 1, 2, 3, 4])
    eventually(lambda: heard["fresh"].seqs() == [0])
    fresh.close()
    said = [line for line in caplog.messages if "does not confirm" in line]
    assert len(said) == 1, "the outage is worth one line, not one for each try"
    assert said[0].startswith(topic.name)


def test_closing_while_the_broker_is_away_ends_in_time_and_gives_up_what_is_under_way(
    kafka: Any, servers: str, topic: Topic, caplog: pytest.LogCaptureFixture
) -> None:
    threads = threading.active_count()
    bus = Bus.connect(servers, source="/esper/test")
    bus.consume(topic.name, print)
    with away(kafka):
        lost: list[Future[RecordPosition]] = [
            bus.publish(topic, report("run", seq)) for seq in range(2)
        ]
        with pytest.raises(BrokerUnreachable, match="esper up"):
            bus.consume(topic.name, print)
        begun = time.monotonic()
        bus.close(timeout_s=1.0)
        assert time.monotonic() - begun < 2.0
    assert all(future.cancelled() for future in lost)
    assert "2 records are given up" in caplog.text
    assert threading.active_count() == threads
