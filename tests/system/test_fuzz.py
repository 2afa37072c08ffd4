"""Damaged records by the thousand on every topic that a worker reads: all are accounted for.

`ESPER_FUZZ_RECORDS=10000` sets how many go to each topic.
"""

import os
import random
import re
from collections.abc import Callable
from typing import Final

import psutil
import pytest

from esper.blueprint import request_for, shipped_named
from esper.topics.bus import Bus, partition_of
from esper.topics.catalog import (
    BLUEPRINT_SUBMITTED,
    KERNEL_REQUESTED,
    SEED_METRICS,
    TRAINING_RUN,
    Topic,
)
from esper.topics.codec import encode
from esper.topics.models import RunStatus, TrainingRun
from esper.workers.local import read_state
from tests.raw_batch import INVALID_UTF8, RawRecord, write_batch
from tests.system.conftest import Running
from tests.system.test_bad_reports import report
from tests.system.test_metrics import samples
from tests.system.test_submissions import SITE, assert_worker_compiles, open_run
from tests.waiting import wait_until

__all__ = ["open_run"]

RECORDS: Final = int(os.environ.get("ESPER_FUZZ_RECORDS", "1000"))
BATCH: Final = 50
LIMIT_S: Final = 500

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]

WHOLE: Final = {
    BLUEPRINT_SUBMITTED: encode(shipped_named("low-rank-skip")),
    # Closed: a damaged site of an open run would be compiled for.
    TRAINING_RUN: encode(TrainingRun(run_id="fuzz", status=RunStatus.CLOSED, sites={"a": SITE})),
    KERNEL_REQUESTED: encode(request_for(shipped_named("pointwise-mix"), SITE)),
    SEED_METRICS: encode(report("fuzz", 0)),
}
"""A valid value of each topic, before it is damaged."""

Damage = Callable[[random.Random, bytes], bytes]


def flipped(rng: random.Random, value: bytes) -> bytes:
    damaged = bytearray(value)
    for _ in range(rng.randint(1, 4)):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    return bytes(damaged)


def cut(rng: random.Random, value: bytes) -> bytes:
    return value[: rng.randrange(len(value))]


def repeated(rng: random.Random, value: bytes) -> bytes:
    start = rng.randrange(len(value))
    return value[: start + 1] + value[start:]


def with_number(rng: random.Random, value: bytes) -> bytes:
    """Replace a number by one that is negative, huge, fractional or not finite."""
    number = rng.choice([b"-1", b"1e999", b"NaN", b"9" * rng.randint(18, 9000), b"0.5"])
    return re.sub(rb"\d+", number, value, count=1)


def with_nesting(rng: random.Random, value: bytes) -> bytes:
    """Replace a string by deeply nested arrays."""
    depth = rng.randint(1, 100_000)
    return re.sub(rb'"[^"]*"(?=[,}])', b"[" * depth + b"]" * depth, value, count=1)


def noise(rng: random.Random, value: bytes) -> bytes:
    return rng.randbytes(rng.randrange(2000))


DAMAGES: Final[tuple[Damage, ...]] = (flipped, cut, repeated, with_number, with_nesting, noise)


def damaged_record(rng: random.Random, value: bytes) -> RawRecord:
    """Return a record whose value, key or headers are damaged."""
    damage = rng.choice(DAMAGES)
    key = rng.choice([b"fuzz", rng.randbytes(rng.randint(1, 300)), b"\x00" * rng.randint(1, 9)])
    headers = rng.choice(
        [
            (),
            [(rng.randbytes(5).hex().encode(), rng.randbytes(50))] * rng.randint(1, 20),
            [(INVALID_UTF8, b"")] if rng.random() < 0.1 else (),
            [(b"traceparent", rng.randbytes(20)), (b"ce_source", rng.randbytes(9))],
        ]
    )
    return RawRecord(key, damage(rng, value), headers)


def records_read(running: Running, worker: str, topic: Topic) -> float:
    found = (
        sample.value
        for sample in samples(running, worker)
        if sample.name == "esper_records_total" and sample.labels["topic"] == topic.name
    )
    return next(found, 0.0)


def worker_processes(running: Running) -> dict[str, int]:
    state = read_state(running.settings.home / "stack.json")
    assert state is not None
    return {name: state.require_process(name).pid for name in ("compile", "bandit")}


@pytest.mark.parametrize("topic", WHOLE, ids=lambda topic: topic.name)
def test_every_damaged_record_is_read_and_the_workers_live(
    running: Running, bus: Bus, topic: Topic
) -> None:
    rng = random.Random(topic.name)
    worker = "bandit" if topic is SEED_METRICS else "compile"
    workers, before = worker_processes(running), records_read(running, worker, topic)
    servers = running.settings.kafka_bootstrap_servers
    for _ in range(RECORDS // BATCH):
        batch = [damaged_record(rng, WHOLE[topic]) for _ in range(BATCH)]
        partition = partition_of(rng.randbytes(4), topic.partitions)
        write_batch(servers, topic.name, batch, partition)
    wait_until(
        lambda: records_read(running, worker, topic) - before >= RECORDS // BATCH * BATCH,
        "every damaged record to be read",
        LIMIT_S,
    )
    assert worker_processes(running) == workers
    assert all(psutil.pid_exists(pid) for pid in workers.values())
    assert_worker_compiles(running, bus)
