"""`kernel-ready` is partitioned by site: producers and consumers agree, tombstones included."""

from typing import Any

import pytest
from hypothesis import given

from esper.topics.announcements import announced_kernels, partition_keys_of
from esper.topics.bus import Bus, Record, StartOffset, create_topics, partition_of, read_topic
from esper.topics.catalog import KERNEL_READY, TOPICS, is_partitioned_by_key
from esper.topics.codec import decode, encode
from esper.topics.models import KernelReady, SiteKind, SiteSignature
from tests.topics.announcing import ELSEWHERE, HERE, partition, unsigned
from tests.topics.events import EVENTS
from tests.waiting import TIMEOUT_S, wait_until

IMAGE = SiteSignature(kind=SiteKind.FEATURE_MAP, x=(4, 8, 8), h=(8, 8, 8), dtype="bfloat16")


@pytest.fixture(scope="module")
def servers(own_kafka: Any) -> str:
    """Return the address of a broker of this module, with the topics."""
    create_topics(own_kafka.bootstrap_servers)
    return str(own_kafka.bootstrap_servers)


@given(EVENTS[KernelReady])
def test_reader_and_producer_compute_the_same_partition(ready: KernelReady) -> None:
    read_back = decode(KernelReady, encode(ready))
    assert partition_keys_of([read_back.site_signature]) == [KERNEL_READY.partition_key_of(ready)]


def test_the_partitions_of_sites_never_change() -> None:
    """With other numbers, running trainers and new workers would miss each other."""
    assert {site.text: partition(site) for site in (HERE, IMAGE)} == {
        "vector:8>12": 15,
        "feature_map:4x8x8>8x8x8": 33,
    }


def test_the_key_determines_the_partition_of_all_other_topics() -> None:
    others = [topic for topic in TOPICS if topic is not KERNEL_READY]
    assert all(is_partitioned_by_key(topic.name) for topic in others)
    assert not is_partitioned_by_key(KERNEL_READY.name)
    for topic in others:
        assert topic.partition_field is None


def test_an_announcement_and_its_tombstone_are_on_the_partition_of_the_site(
    servers: str, bus: Bus
) -> None:
    ready = unsigned("placed")
    key = ready.kernel_id.encode()
    assert partition_of(key, KERNEL_READY.partitions) != partition(HERE), "choose another name"
    bus.publish(KERNEL_READY, ready).result(TIMEOUT_S)
    assert ready in announced_kernels(servers)
    bus.withdraw(KERNEL_READY, ready).result(TIMEOUT_S)
    records = read_topic(servers, KERNEL_READY.name, key=key)
    assert [(one.partition, one.value) for one in records] == [
        (partition(HERE), encode(ready)),
        (partition(HERE), None),
    ]
    assert ready not in announced_kernels(servers)
    assert ready in announced_kernels(servers, withdrawn=True)


def test_a_record_without_its_partition_key_is_not_sent(bus: Bus) -> None:
    with pytest.raises(ValueError, match="kernel-ready is not partitioned by key: use publish"):
        bus.send(KERNEL_READY.name, b"a" * 64, None).result(TIMEOUT_S)


def test_a_consumer_of_sites_receives_nothing_from_other_partitions(servers: str, bus: Bus) -> None:
    reader = Bus.connect(servers, source="/esper/test")
    consumed: list[Record] = []
    keys = partition_keys_of([HERE])
    reader.consume(
        KERNEL_READY.name, consumed.append, partition_keys=keys, start=StartOffset.EARLIEST
    )
    before = len(read_topic(servers, KERNEL_READY.name, partition_keys=keys))
    for name in ("a", "b", "c"):
        bus.publish(KERNEL_READY, unsigned(name, ELSEWHERE)).result(TIMEOUT_S)
    marker = unsigned("marker")
    bus.publish(KERNEL_READY, marker).result(TIMEOUT_S)
    wait_until(lambda: len(consumed) == before + 1, "the marker")
    reader.close()
    received = reader.received[KERNEL_READY.name]
    assert received.records == before + 1
    assert consumed[-1].key == marker.kernel_id.encode()
    found = list(announced_kernels(servers, signatures=[HERE]))
    assert marker in found
    assert {ready.site_signature for ready in found} == {HERE}


def test_a_consumer_of_no_site_receives_nothing(servers: str, bus: Bus) -> None:
    bus.consume(KERNEL_READY.name, print, partition_keys=[], start=StartOffset.EARLIEST).close()
    assert bus.received == {}
    assert list(announced_kernels(servers, signatures=[])) == []


def test_a_closed_subscription_delivers_no_more(servers: str, bus: Bus) -> None:
    first, second = list[Record](), list[Record]()
    closed = bus.consume(KERNEL_READY.name, first.append, partition_keys=partition_keys_of([HERE]))
    bus.consume(KERNEL_READY.name, second.append, partition_keys=partition_keys_of([HERE]))
    bus.publish(KERNEL_READY, unsigned("before")).result(TIMEOUT_S)
    wait_until(lambda: len(first) == len(second) == 1, "the record before")
    closed.close()
    bus.publish(KERNEL_READY, unsigned("after")).result(TIMEOUT_S)
    wait_until(lambda: len(second) == 2, "the record after")
    assert len(first) == 1
