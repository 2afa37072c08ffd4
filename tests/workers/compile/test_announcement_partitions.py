"""Announcements and tombstones of real compile workers arrive where the trainers of a site read."""

from collections.abc import Iterator

import pytest

from benchmarks.compile_fleet import Fleet, blueprint
from esper.blueprint import kernel_id, request_for
from esper.topics.announcements import partition_keys_of
from esper.topics.bus import Bus, Record, StartOffset, partition_of
from esper.topics.catalog import BLUEPRINT_SUBMITTED, KERNEL_READY
from esper.topics.codec import decode
from esper.topics.models import KernelReady, RunStatus, SiteKind, SiteSignature, TrainingRun
from esper.workers.local import KafkaService
from tests.raw_batch import RawRecord, write_batch
from tests.waiting import TIMEOUT_S, wait_until

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]


class Reader:
    """Reads the partition of one site, as its trainers do."""

    def __init__(self, servers: str, site: SiteSignature) -> None:
        self.records: list[Record] = []
        self.bus = Bus.connect(servers, source="/esper/test")
        self.bus.consume(
            KERNEL_READY.name,
            self.records.append,
            partition_keys=partition_keys_of([site]),
            start=StartOffset.EARLIEST,
        )

    def values(self, kernel: str) -> list[bytes | None]:
        """Return the values of a kernel's records, in order."""
        return [one.value for one in list(self.records) if one.key == kernel.encode()]


def site_of(width: int) -> SiteSignature:
    return SiteSignature(kind=SiteKind.VECTOR, x=(4,), h=(width,))


@pytest.fixture
def site(request: pytest.FixtureRequest) -> SiteSignature:
    """Return a site that no other test has."""
    return site_of(100 + len(request.node.name))


@pytest.fixture
def reader(own_kafka: KafkaService, site: SiteSignature) -> Iterator[Reader]:
    opened = Reader(own_kafka.bootstrap_servers, site)
    yield opened
    opened.bus.close()


def run_at(site: SiteSignature) -> TrainingRun:
    return TrainingRun(run_id=f"run-{site.h[0]}", status=RunStatus.OPEN, sites={"fc": site})


def end(workers: Fleet, site: SiteSignature, blueprint_id: str) -> None:
    """Leave neither run nor blueprint to the next test, which has the same broker."""
    workers.announce(run_at(site).model_copy(update={"status": RunStatus.CLOSED}))
    workers.bus.send(BLUEPRINT_SUBMITTED.name, blueprint_id.encode(), None).result(TIMEOUT_S)


def test_a_withdrawal_reaches_the_trainers_also_after_a_restart(
    workers: Fleet, reader: Reader, site: SiteSignature
) -> None:
    wanted = blueprint("withdrawn-later", "0.02")
    kernel = kernel_id(wanted, site)
    (worker,) = workers.start()
    workers.announce(run_at(site))
    workers.publish(wanted)
    wait_until(lambda: reader.values(kernel), "the announcement")
    workers.stop(worker)
    workers.start()
    workers.bus.send(BLUEPRINT_SUBMITTED.name, wanted.blueprint_id.encode(), None).result(TIMEOUT_S)
    wait_until(lambda: reader.values(kernel)[-1] is None, "the tombstone")
    end(workers, site, wanted.blueprint_id)


def test_a_kernel_announced_on_another_partition_is_announced_again(
    workers: Fleet, own_kafka: KafkaService, reader: Reader, site: SiteSignature
) -> None:
    """A worker that counted it as announced would leave the site's trainers without it."""
    wanted = blueprint("misplaced", "0.02")
    kernel = kernel_id(wanted, site)
    (worker,) = workers.start()
    workers.announce(run_at(site))
    workers.publish(wanted)
    (value,) = wait_until(lambda: reader.values(kernel), "the announcement")
    assert value is not None
    workers.stop(worker)
    ready = decode(KernelReady, value)
    workers.bus.withdraw(KERNEL_READY, ready).result(TIMEOUT_S)
    right = partition_of(KERNEL_READY.partition_key_of(ready), KERNEL_READY.partitions)
    elsewhere = (right + 1) % KERNEL_READY.partitions
    record = RawRecord(kernel.encode(), value)
    write_batch(own_kafka.bootstrap_servers, KERNEL_READY.name, [record], elsewhere)
    workers.start()
    wait_until(lambda: len(reader.values(kernel)) == 3, "the second announcement")
    assert [one is None for one in reader.values(kernel)] == [False, True, False]
    end(workers, site, wanted.blueprint_id)


def test_a_live_run_that_opens_has_nothing_announced_again_and_a_lockstep_run_has(
    workers: Fleet, reader: Reader, site: SiteSignature
) -> None:
    wanted, marker = blueprint("once", "0.02"), site_of(200)
    kernel = kernel_id(wanted, site)
    first = run_at(site)
    second = first.model_copy(update={"run_id": "second", "sites": {"a": site, "b": marker}})
    third = first.model_copy(update={"run_id": "third", "lockstep": True})
    workers.start()
    workers.announce(first)
    workers.publish(wanted)
    workers.wait_announced([request_for(wanted, site)])
    workers.announce(second)
    # Had the second run asked for the first kernel again, its answer would come before this one.
    workers.wait_announced([request_for(wanted, marker)])
    assert len(reader.values(kernel)) == 1
    workers.announce(third)
    wait_until(lambda: len(reader.values(kernel)) == 2, "the answer to the lockstep run")
    for opened in (second, third):
        workers.announce(opened.model_copy(update={"status": RunStatus.CLOSED}))
    end(workers, site, wanted.blueprint_id)
