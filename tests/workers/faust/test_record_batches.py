"""Record batches: complete, limited in size, and limited in memory while in flight."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from esper.workers.faust.guards.record_batches import MAX_BATCH_BYTES, MAX_BATCH_RECORDS, split
from tests.waiting import wait_until

from .scenario import Scenario


@dataclass(frozen=True)
class Sent:
    """Stands for a record of the Kafka client."""

    offset: int
    value: bytes | None


SIZES = st.sampled_from([0, 1, 1000, MAX_BATCH_BYTES // 2, MAX_BATCH_BYTES, MAX_BATCH_BYTES + 1])


@given(st.lists(st.none() | SIZES, max_size=200))
def test_batches_hold_every_record_in_order_within_the_limits(sizes: list[int | None]) -> None:
    records = [
        Sent(offset, None if size is None else bytes(size)) for offset, size in enumerate(sizes)
    ]
    record_batches = list(split(records))
    assert [record for record_batch in record_batches for record in record_batch] == records
    for record_batch in record_batches:
        assert 1 <= len(record_batch) <= MAX_BATCH_RECORDS
        size = sum(len(record.value or b"") for record in record_batch)
        assert size <= MAX_BATCH_BYTES or len(record_batch) == 1


def test_fetching_pauses_at_the_in_flight_limit(scenario: Scenario) -> None:
    scenario.create_topics(partitions=1)
    scenario.publish("0 hang")
    worker = scenario.start("in-batches", instance_id="one", max_in_flight_bytes=1)
    worker.wait_for("start", 0)
    scenario.publish("1", "2", "3")
    worker.wait_for_passes("fetch")
    worker.terminate()
    assert worker.exit_code() == 1
    assert "1 records still in flight" in worker.output()

    scenario.read_the_rest()
    assert {0, 1, 2, 3} <= scenario.done()


def test_a_small_in_flight_limit_loses_no_record(scenario: Scenario) -> None:
    scenario.create_topics(partitions=2)
    scenario.start("in-batches", instance_id="one", max_in_flight_bytes=1).wait_ready()
    # One by one, for many fetches: each has to wait until the previous batch is done.
    for number in range(200):
        scenario.publish(f"{number} work", partition=number % 2)
    wait_until(lambda: scenario.done() == set(range(200)), "all records done")
    for partition in range(2):
        wait_until(lambda p=partition: scenario.committed(p) == 100, "the commit")
