"""Records whose framing is unusual: codecs, headers and keys. No record stops a worker."""

import json
import secrets
from typing import Any

import pytest
from confluent_kafka import Producer

from esper.blueprint import request_for, shipped_named
from esper.topics.bus import Bus, Record, partition_of
from esper.topics.catalog import (
    BLUEPRINT_SUBMITTED,
    KERNEL_READY,
    KERNEL_REQUESTED,
    SEED_METRICS,
    TRAINING_RUN,
)
from esper.topics.codec import encode
from esper.topics.models import RunStatus, TrainingRun
from tests.raw_batch import INVALID_UTF8, RawRecord, write_batch
from tests.system.conftest import Running
from tests.system.test_submissions import (
    SITE,
    Watch,
    assert_worker_compiles,
    blueprint,
    open_run,
    ready,
    unique,
)
from tests.waiting import wait_until

__all__ = ["open_run"]

CODECS = ["gzip", "snappy", "lz4", "zstd"]

MIB = 1 << 20


def produce(running: Running, topic: str, value: bytes | None, **settings: Any) -> None:
    """Publish with librdkafka; `key`, `headers` and `record_partition` are the record's."""
    record = {name: settings.pop(name) for name in ("key", "headers") if name in settings}
    if "record_partition" in settings:
        record["partition"] = settings.pop("record_partition")
    producer = Producer(
        {
            "bootstrap.servers": running.settings.kafka_bootstrap_servers,
            "message.max.bytes": 128 * MIB,
            **{name.replace("_", "."): setting for name, setting in settings.items()},
        }
    )
    errors: list[Any] = []
    producer.produce(topic, value, on_delivery=lambda error, _: errors.append(error), **record)
    producer.flush(60)
    assert errors == [None]


def dead_letter(watch: Watch, *, reason: str) -> Record:
    """Wait for a dead letter whose reason contains a text."""

    def found() -> Record | None:
        return next(
            (
                record
                for record in watch.records
                if reason in dict(record.headers)["dlq-reason"].decode()
            ),
            None,
        )

    record: Record = wait_until(found, f"a dead letter with {reason!r} in its reason")
    return record


@pytest.mark.parametrize("codec", CODECS)
def test_a_blueprint_compressed_by_any_codec_becomes_a_kernel(
    running: Running, bus: Bus, codec: str
) -> None:
    watch, name = Watch(bus, KERNEL_READY.name), unique(codec)
    value = json.dumps(blueprint(name)).encode()
    produce(running, BLUEPRINT_SUBMITTED.name, value, compression_type=codec)
    wait_until(lambda: ready(watch.records, name), "kernel-ready")


def test_a_header_name_that_is_not_utf8_is_a_dead_letter(running: Running, bus: Bus) -> None:
    watch = Watch(bus, BLUEPRINT_SUBMITTED.dead_letters)
    bad = RawRecord(b"k", json.dumps(blueprint("any")).encode(), [(INVALID_UTF8, b"")])
    write_batch(running.settings.kafka_bootstrap_servers, BLUEPRINT_SUBMITTED.name, [bad])
    dead = dead_letter(watch, reason="cannot be read")
    assert (dead.key, dead.value) == (None, b"")
    assert dict(dead.headers)["dlq-topic"] == BLUEPRINT_SUBMITTED.name.encode()
    assert_worker_compiles(running, bus)


def test_the_good_records_of_a_batch_with_an_unreadable_one_are_processed(
    running: Running, bus: Bus
) -> None:
    watch, names = Watch(bus, KERNEL_READY.name), [unique("before"), unique("after")]
    values = [json.dumps(blueprint(name)).encode() for name in names]
    records = [
        RawRecord(b"k", values[0]),
        RawRecord(b"k", b"{}", [(INVALID_UTF8, b"")]),
        RawRecord(b"k", values[1]),
    ]
    write_batch(running.settings.kafka_bootstrap_servers, BLUEPRINT_SUBMITTED.name, records)
    for name in names:
        wait_until(lambda name=name: ready(watch.records, name), f"the kernel of {name}")


@pytest.mark.parametrize("topic", [BLUEPRINT_SUBMITTED, SEED_METRICS], ids=lambda topic: topic.name)
def test_a_huge_key_is_cut_in_its_dead_letter(running: Running, bus: Bus, topic: Any) -> None:
    watch, marker, key_bytes = Watch(bus, topic.dead_letters), secrets.token_hex(4), 4 * MIB - 4096
    produce(running, topic.name, b"{}", key=marker.encode() + bytes(key_bytes - 8))
    dead = wait_until(
        lambda: next(
            (one for one in watch.records if one.key and one.key.startswith(marker.encode())), None
        ),
        "the dead letter",
    )
    assert len(dead.key) <= 4096
    assert dict(dead.headers)["dlq-key-bytes"] == str(key_bytes).encode()
    assert_worker_compiles(running, bus)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("topic", [BLUEPRINT_SUBMITTED, SEED_METRICS], ids=lambda topic: topic.name)
def test_a_record_that_decompresses_to_very_many_bytes_is_not_read(
    running: Running, bus: Bus, topic: Any, codec: str
) -> None:
    """80 MB of zeros are some kilobytes to a few megabytes on the broker."""
    watch = Watch(bus, topic.dead_letters)
    produce(running, topic.name, b"{}", key=bytes(80 * MIB), compression_type=codec)
    dead = dead_letter(watch, reason="it decompresses to more than 64 MiB")
    assert dead.key is None
    assert_worker_compiles(running, bus)


def test_work_under_another_key_or_partition_than_its_own_is_a_dead_letter(
    running: Running, bus: Bus
) -> None:
    """A compacted topic would keep such a record for ever, and another worker would own it."""
    requests, runs = (
        Watch(bus, KERNEL_REQUESTED.dead_letters),
        Watch(bus, TRAINING_RUN.dead_letters),
    )
    request = request_for(shipped_named("pointwise-mix"), SITE)
    key, value = request.kernel_id.encode(), encode(request)
    wrong = (partition_of(key, KERNEL_REQUESTED.partitions) + 1) % KERNEL_REQUESTED.partitions
    produce(running, KERNEL_REQUESTED.name, value, key=b"other")
    produce(running, KERNEL_REQUESTED.name, value, key=key, record_partition=wrong)
    run = TrainingRun(run_id=unique("run"), status=RunStatus.OPEN, sites={"conv": SITE})
    produce(running, TRAINING_RUN.name, encode(run), key=b"another")
    assert dead_letter(requests, reason="the key is b'other'").value == value
    assert (
        "murmur2_random"
        in dict(dead_letter(requests, reason=f"is on partition {wrong}").headers)[
            "dlq-reason"
        ].decode()
    )
    assert dead_letter(runs, reason=f"the key is b'another' but must be the run_id '{run.run_id}'")


def test_huge_headers_are_left_out_of_a_dead_letter(running: Running, bus: Bus) -> None:
    watch = Watch(bus, BLUEPRINT_SUBMITTED.dead_letters)
    marker = unique("marked")
    headers = [("marker", marker.encode()), ("large", bytes(4 * MIB - 4096))]
    produce(running, BLUEPRINT_SUBMITTED.name, b"{}", headers=headers)
    dead = wait_until(
        lambda: next(
            (one for one in watch.records if ("marker", marker.encode()) in one.headers), None
        ),
        "the dead letter",
    )
    assert "large" not in dict(dead.headers)
    assert dict(dead.headers)["dlq-headers-bytes"]
    assert_worker_compiles(running, bus)
