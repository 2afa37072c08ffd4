"""Parcels: nothing is left out of them, they stay small, and no more are out than there is room."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from esper.workers.faust.guards.record_batches import PARCEL_BYTES, PARCEL_RECORDS, split

from .scenario import Scenario, wait_until


@dataclass(frozen=True)
class Sent:
    """A record of the client, as far as parcels look at it."""

    offset: int
    value: bytes | None


SIZES = st.sampled_from([0, 1, 1000, PARCEL_BYTES // 2, PARCEL_BYTES, PARCEL_BYTES + 1])


@given(st.lists(st.none() | SIZES, max_size=200))
def test_parcels_hold_every_record_in_order_and_each_is_small(sizes: list[int | None]) -> None:
    records = [
        Sent(offset, None if size is None else bytes(size)) for offset, size in enumerate(sizes)
    ]
    record_batches = list(split(records))
    assert [each for record_batch in record_batches for each in record_batch] == records
    for record_batch in record_batches:
        assert 1 <= len(record_batch) <= PARCEL_RECORDS
        size = sum(len(each.value or b"") for each in record_batch)
        assert size <= PARCEL_BYTES or len(record_batch) == 1


def test_nothing_more_is_fetched_while_there_is_no_room(scenario: Scenario) -> None:
    scenario.create_topics(partitions=1)
    scenario.publish("0 hang")
    worker = scenario.start("in-batches", instance_id="one", max_out_bytes=1)
    worker.wait_for("start", 0)
    scenario.publish("1", "2", "3")
    scenario.let_commits_settle()
    worker.terminate()
    assert worker.exit_code() == 1
    assert "1 records still in work" in worker.output()

    scenario.take_what_is_left()
    assert {0, 1, 2, 3} <= scenario.done()


def test_with_little_room_every_record_is_done_in_the_end(scenario: Scenario) -> None:
    scenario.create_topics(partitions=2)
    scenario.start("in-batches", instance_id="one", max_out_bytes=1).wait_ready()
    # One by one, so that there are many fetches: each needs the room that the one before took.
    for number in range(200):
        scenario.publish(f"{number} work", partition=number % 2)
    wait_until(lambda: scenario.done() == set(range(200)), "all records done")
    for partition in range(2):
        wait_until(lambda p=partition: scenario.committed(p) == 100, "the commit")
