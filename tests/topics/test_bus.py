"""The bus on a real broker: acknowledged sends, consumers that survive outages, clean shutdown."""

import asyncio
import concurrent.futures
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
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
from esper.topics.bus.bus import DISCONNECT_TIMEOUT_S
from esper.topics.catalog import MAX_MESSAGE_BYTES, Topic, TopicSpec, topic_specs
from esper.topics.codec import encode, sha256_of, traceparent_of
from tests.topics.conftest import (
    PARTITIONS,
    Consumed,
    make_topic,
    neighbour_of,
    outage,
    report,
)
from tests.waiting import TIMEOUT_S, wait_until


@pytest.fixture
def silent_server() -> Iterator[str]:
    """An address that accepts connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def timeouts(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """The delays passed to `asyncio.timeout` during the test."""
    delays: list[float | None] = []
    timeout = asyncio.timeout

    def record_delay(delay: float | None) -> asyncio.Timeout:
        delays.append(delay)
        return timeout(delay)

    monkeypatch.setattr(asyncio, "timeout", record_delay)
    return delays


# -- the topics ---------------------------------------------------------------------------------


def test_creating_the_topics_again_creates_none(servers: str) -> None:
    create_topics(servers)
    found = asyncio.run(partition_counts(servers))
    assert {spec.name: spec.partitions for spec in topic_specs()}.items() <= found.items()
    assert create_topics(servers) == []


def test_a_topic_with_another_partition_count_is_an_error_and_is_not_changed(servers: str) -> None:
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
    position = bus.publish(topic, event).result(60)
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
    chosen = {key: future.result(60).partition for key, future in sent.items()}
    assert chosen == {key: partition_of(key.encode(), PARTITIONS) for key in keys}
    assert len(set(chosen.values())) == PARTITIONS


def test_a_consumer_of_a_key_receives_only_that_key(bus: Bus, topic: Topic) -> None:
    neighbour = neighbour_of("mine")
    consumed = Consumed()
    bus.consume(topic.name, consumed.append, key=b"mine")
    for seq in range(3):
        bus.publish(topic, report(neighbour, seq)).result(60)
        bus.publish(topic, report("mine", seq)).result(60)
    wait_until(lambda: len(consumed) >= 3, "3 records")
    assert [(record.key, record.value) for record in consumed] == [
        (b"mine", encode(report("mine", seq))) for seq in range(3)
    ]


def test_a_consumer_from_latest_receives_every_later_record_and_no_earlier_one(
    bus: Bus, topic: Topic
) -> None:
    consumers = [Consumed() for _ in range(8)]
    for seq, consumed in enumerate(consumers):
        bus.publish(topic, report("run", 2 * seq)).result(60)
        bus.consume(topic.name, consumed.append, key=b"run", start=StartOffset.LATEST)
        bus.publish(topic, report("run", 2 * seq + 1)).result(60)
    last = 2 * len(consumers) - 1
    for seq, consumed in enumerate(consumers):
        expected = list(range(2 * seq + 1, last + 1))
        wait_until(
            lambda consumed=consumed, expected=expected: consumed.seqs() == expected,
            f"records {expected}",
        )


def test_a_consumer_from_earliest_receives_all_records(bus: Bus, topic: Topic) -> None:
    keys = [f"run-{number}" for number in range(10)]
    for future in [bus.publish(topic, report(key, 0)) for key in keys]:
        future.result(60)
    consumed = Consumed()
    bus.consume(topic.name, consumed.append, start=StartOffset.EARLIEST)
    wait_until(lambda: len(consumed) == len(keys), "a record of every key")
    assert {record.key for record in consumed} == {key.encode() for key in keys}


def test_a_record_whose_callback_fails_is_logged_and_the_next_one_is_delivered(
    bus: Bus, topic: Topic, caplog: pytest.LogCaptureFixture
) -> None:
    delivered: list[int] = []

    def fail_once(record: Record) -> None:
        delivered.append(record.offset)
        if record.offset == 0:
            raise RuntimeError("the callback is broken")

    bus.consume(topic.name, fail_once, start=StartOffset.EARLIEST, key=b"run")
    for seq in range(2):
        bus.publish(topic, report("run", seq)).result(60)
    wait_until(lambda: delivered == [0, 1], "the second record")
    assert "@0 is passed over: it could not be handled" in caplog.text
    assert "the callback is broken" in caplog.text


class Fatal(BaseException):
    """What a callback cannot be expected to survive."""


def test_a_consumer_that_ends_is_reported_with_its_topic(servers: str, topic: Topic) -> None:
    lost: SimpleQueue[str] = SimpleQueue()

    def fail(record: Record) -> None:
        raise Fatal

    bus = Bus.connect(servers, source="/esper/test", on_lost=lost.put)
    bus.consume(topic.name, fail)
    bus.send(topic.name, b"key", b"value").result(TIMEOUT_S)
    assert lost.get(timeout=TIMEOUT_S) == topic.name
    bus.close()


def test_reading_a_topic_stops_at_its_end_and_keeps_the_order_of_a_key(
    servers: str, bus: Bus, topic: Topic
) -> None:
    assert read_topic(servers, topic.name) == []
    for seq in range(5):
        for run in ("a", neighbour_of("a")):
            bus.publish(topic, report(run, seq)).result(60)
    assert len(read_topic(servers, topic.name)) == 10
    assert Consumed(read_topic(servers, topic.name, key=b"a")).seqs() == list(range(5))
    assert {record.key for record in read_topic(servers, topic.name, key=b"a")} == {b"a"}


@pytest.mark.parametrize("call", ["read_topic", "consume"])
def test_a_topic_that_does_not_exist_is_an_error_with_the_remedy(
    servers: str, bus: Bus, call: str
) -> None:
    with pytest.raises(TopicMismatch, match=r"no topic 'no-such-topic'.*esper topics create"):
        if call == "read_topic":
            read_topic(servers, "no-such-topic")
        else:
            bus.consume("no-such-topic", print)


# -- dead letters and records that are too large ------------------------------------------


def send_dead_letter(servers: str, record: Record) -> Record:
    """Send a record to its dead-letter topic and return the dead letter."""

    async def send() -> None:
        producer = Producer(servers, source="/esper/test")
        try:
            await producer.send_to_dlq(record, "no event of ours")
        finally:
            await producer.stop()

    asyncio.run(send())
    (dead_letter,) = read_topic(servers, f"{record.topic}.dlq")
    return dead_letter


@pytest.mark.parametrize(
    ("key", "value"),
    [(b"k\xff", b"\x00\xff not json"), (None, b"{}"), (b"k", None), (None, None)],
)
def test_a_dead_letter_keeps_key_value_and_headers_and_names_its_origin(
    servers: str, topic: Topic, key: bytes | None, value: bytes | None
) -> None:
    record = Record(topic.name, 3, 17, 0, key, value, (("mine", b"\xff"), ("mine", b"again")))
    dead_letter = send_dead_letter(servers, record)
    assert dead_letter.key == key
    assert dead_letter.value == (b"" if key is None and value is None else value)
    assert dead_letter.headers == (
        ("mine", b"\xff"),
        ("mine", b"again"),
        ("dlq-reason", b"no event of ours"),
        ("dlq-topic", topic.name.encode()),
        ("dlq-partition", b"3"),
        ("dlq-offset", b"17"),
    )


@pytest.mark.parametrize("key", [None, b"k"])
def test_a_value_too_large_for_the_dead_letter_topic_is_replaced_by_its_size(
    servers: str, topic: Topic, key: bytes | None
) -> None:
    value = secrets.token_bytes(MAX_MESSAGE_BYTES + 1000)
    dead_letter = send_dead_letter(servers, Record(topic.name, 0, 5, 0, key, value))
    assert dict(dead_letter.headers)["dlq-value-bytes"] == str(len(value)).encode()
    assert dict(dead_letter.headers)["dlq-offset"] == b"5"
    assert not dead_letter.value


def test_a_record_larger_than_any_topic_accepts_is_an_error(bus: Bus, topic: Topic) -> None:
    with pytest.raises(RecordTooLarge, match=f"{topic.name}: a record of 4194305 bytes"):
        bus.send(topic.name, b"k", bytes(MAX_MESSAGE_BYTES + 1)).result(60)
    assert bus.publish(topic, report("run", 0)).result(60).topic == topic.name


def test_a_record_that_the_broker_rejects_as_too_large_is_an_error(servers: str, bus: Bus) -> None:
    name = f"bus-{secrets.token_hex(4)}"
    make_topic(servers, name, 1, **{"max.message.bytes": "1000"})
    with pytest.raises(RecordTooLarge, match=f"{name}: a record of 2000 bytes is too large"):
        bus.send(name, b"k", secrets.token_bytes(2000)).result(60)
    assert bus.send(name, b"k", b"small").result(60).offset == 0


# -- no broker ----------------------------------------------------------------------------------


CALLS: dict[str, Callable[[str], object]] = {
    "connect": lambda servers: Bus.connect(servers, source="/esper/test"),
    "read_topic": lambda servers: read_topic(servers, "seed-metrics"),
    "create_topics": create_topics,
}


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no.such.host.invalid:9092", "here:there"])
@pytest.mark.parametrize("call", CALLS)
def test_an_unreachable_broker_is_a_one_line_error_with_the_remedy(
    call: str, address: str, timeouts: list[float | None]
) -> None:
    threads = threading.active_count()
    with pytest.raises(BrokerUnreachable) as refusal:
        CALLS[call](address)
    assert 5.0 in timeouts
    assert str(refusal.value) == (
        f"no Kafka broker answers at {address}; "
        "start one with `esper up`, or set KAFKA_BOOTSTRAP_SERVERS"
    )
    # The DNS lookup runs on a thread that ends a moment later.
    wait_until(lambda: threading.active_count() == threads, "the end of the DNS lookup")


def test_a_program_without_logging_prints_nothing_for_an_unreachable_broker() -> None:
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


def test_a_server_that_never_answers_is_unreachable_after_five_seconds(
    silent_server: str, timeouts: list[float | None]
) -> None:
    started = time.monotonic()
    with pytest.raises(BrokerUnreachable) as refusal:
        Bus.connect(silent_server, source="/esper/test")
    assert time.monotonic() - started > 4.5
    # The error comes from this timeout; the client library's own ones are longer.
    assert isinstance(refusal.value.__cause__, TimeoutError)
    assert 5.0 in timeouts


@pytest.mark.parametrize("call", ["read_topic", "create_topics"])
def test_every_call_respects_the_connect_timeout(
    call: str,
    silent_server: str,
    timeouts: list[float | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("esper.topics.bus.connection.CONNECT_TIMEOUT_S", 0.3)
    with pytest.raises(BrokerUnreachable) as refusal:
        CALLS[call](silent_server)
    assert isinstance(refusal.value.__cause__, TimeoutError)
    assert 0.3 in timeouts


def test_closing_a_bus_leaves_no_thread_and_no_open_file(servers: str, topic: Topic) -> None:
    def use_once() -> None:
        used = Bus.connect(servers, source="/esper/test")
        used.consume(topic.name, print)
        used.publish(topic, report("run", 0)).result(60)
        used.close()
        used.close()

    use_once()
    threads, files = threading.active_count(), psutil.Process().num_fds()
    for _ in range(3):
        use_once()
    assert threading.active_count() == threads
    assert psutil.Process().num_fds() <= files


# -- broker outages --------------------------------------------------------------------


def test_an_outage_delays_records_and_loses_none(
    kafka: Any,
    servers: str,
    topic: Topic,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The client library retries by itself, or fails and `Producer` retries.

    The library fails for a topic that its producer has not written to yet.
    """
    attempts: Counter[bytes | None] = Counter()
    send_once = Producer._send_once

    async def count_attempts(
        producer: Producer, topic: str, key: bytes | None, *record: Any
    ) -> RecordPosition:
        attempts[key] += 1
        return await send_once(producer, topic, key, *record)

    monkeypatch.setattr(Producer, "_send_once", count_attempts)
    # Longer than an outage on a busy machine, so that the library retries.
    monkeypatch.setattr("esper.topics.bus.producer.REQUEST_TIMEOUT_S", 120.0)
    bus = Bus.connect(servers, source="/esper/known")
    # Shorter than the outage, so that the library fails.
    monkeypatch.setattr("esper.topics.bus.producer.REQUEST_TIMEOUT_S", 1.0)
    fresh = Bus.connect(servers, source="/esper/fresh")
    consumed = {"known": Consumed(), "fresh": Consumed()}
    for run, records in consumed.items():
        bus.consume(topic.name, records.append, key=run.encode())
    for seq in range(3):
        bus.publish(topic, report("known", seq)).result(60)
    with outage(kafka):
        delayed = [
            bus.publish(topic, report("known", 3)),
            fresh.publish(topic, report("fresh", 0)),
        ]
        wait_until(lambda: attempts[b"fresh"] >= 3, "three attempts to send the record")
        assert not any(future.done() for future in delayed)
    assert [future.result(60).topic for future in delayed] == [topic.name] * 2
    bus.publish(topic, report("known", 4)).result(60)
    wait_until(
        lambda: consumed["known"].seqs() == [0, 1, 2, 3, 4], "all records of the known producer"
    )
    wait_until(lambda: consumed["fresh"].seqs() == [0], "the record of the fresh producer")
    fresh.close()
    bus.close()
    warnings = [line for line in caplog.messages if "does not acknowledge" in line]
    assert len(warnings) == 1, "an outage is one warning, not one for each attempt"
    assert warnings[0].startswith(topic.name)


def test_closing_during_an_outage_ends_in_time_and_drops_pending_records(
    kafka: Any,
    servers: str,
    topic: Topic,
    timeouts: list[float | None],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []

    def record_wait(pending: set[Future[RecordPosition]], timeout_s: float) -> Any:
        waits.append(timeout_s)
        return concurrent.futures.wait(pending, timeout_s)

    monkeypatch.setattr("esper.topics.bus.bus.wait", record_wait)
    threads = threading.active_count()
    bus = Bus.connect(servers, source="/esper/test")
    bus.consume(topic.name, print)
    with outage(kafka):
        lost: list[Future[RecordPosition]] = [
            bus.publish(topic, report("run", seq)) for seq in range(2)
        ]
        with pytest.raises(BrokerUnreachable, match="esper up"):
            bus.consume(topic.name, print)
        # `close` returns before the broker starts again.
        bus.close(timeout_s=1.0)
        assert waits == [1.0]
        assert DISCONNECT_TIMEOUT_S in timeouts
    assert all(future.cancelled() for future in lost)
    assert "dropped 2 records" in caplog.text
    assert threading.active_count() == threads
