"""`process_in_order` and `process_batches` on a real broker."""

import pytest

from esper.workers.faust.guards import ALL, Guard
from tests.waiting import wait_until

from .scenario import Scenario


def test_concurrent_records_are_committed_only_up_to_the_oldest(
    scenario: Scenario,
) -> None:
    """Without the commit guard, which would hide an acknowledgement out of order."""
    scenario.create_topics(partitions=1)
    scenario.publish("0", "1 hang", "2", "3")
    first = scenario.start("in-order", guards=ALL - {Guard.COMMIT_GAPS}, instance_id="one")
    first.wait_for("done", 3)
    wait_until(lambda: scenario.committed() == 1, "the commit of the finished prefix")
    first.wait_for_passes("commit")
    assert scenario.committed() == 1
    first.kill()

    scenario.read_the_rest()
    assert scenario.workers[1].numbers("start") == [1, 2, 3, 1000]


def test_no_more_records_than_the_concurrency_are_in_flight(scenario: Scenario) -> None:
    """A fifth record starts only when one of the first four is done."""
    scenario.create_topics(partitions=1)
    scenario.publish("0 sleep", "1 sleep", "2 sleep", "3 sleep", "4", "5")
    worker = scenario.start("in-order", instance_id="one")
    worker.wait_for("done", 5)
    started = [step.what for step in worker.steps() if step.number >= 0]
    assert started[:4] == ["start"] * 4
    assert started[4] == "done"
    wait_until(lambda: scenario.committed() == 6, "the commit of all")


@pytest.mark.parametrize("agent", ["in-order", "in-batches"])
def test_a_handler_that_raises_ends_the_worker_and_its_record_is_read_again(
    scenario: Scenario, agent: str
) -> None:
    scenario.create_topics(partitions=1)
    scenario.publish("0", "1 raise", "2")
    first = scenario.start(agent, instance_id="one")
    assert first.exit_code() == 1
    assert "as the record says" in first.output()

    scenario.read_the_rest()
    assert {0, 1, 2} <= scenario.done()


def test_an_in_flight_batch_is_not_committed(scenario: Scenario) -> None:
    scenario.create_topics(partitions=1)
    scenario.publish("0", "1 hang", "2")
    worker = scenario.start("in-batches", guards=ALL - {Guard.COMMIT_GAPS}, instance_id="one")
    worker.wait_for("start", 1)
    worker.wait_for_passes("commit")
    assert scenario.committed() <= 1


def test_a_batch_starts_in_order_and_its_table_writes_go_to_the_partitions_of_its_records(
    scenario: Scenario,
) -> None:
    """All records have the same key; a partitioner would send all writes to one partition."""
    scenario.create_topics(partitions=2)
    scenario.publish(*(f"{number}" for number in range(40)), partition=0)
    scenario.publish(*(f"{number}" for number in range(40, 80)), partition=1)
    worker = scenario.start("in-batches", instance_id="one")
    wait_until(lambda: scenario.done() == set(range(80)), "all records done")
    for partition in range(2):
        started = [
            s.offset for s in worker.steps() if (s.what, s.partition) == ("start", partition)
        ]
        assert started == list(range(40))
        wait_until(
            lambda p=partition: scenario.end_offset(scenario.changelog, p) == 40, "the changelog"
        )
        wait_until(lambda p=partition: scenario.committed(p) == 40, "the commit")
