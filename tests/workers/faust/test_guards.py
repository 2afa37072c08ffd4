"""Each guard on a real broker: with the guard no record is lost, without it the defect shows.

The workers are processes (`worker.py`). The first one runs the command in each record; its
successor ignores the commands and reads the rest.
"""

import itertools
import threading

import pytest

from esper.workers.faust.guards import ALL, TESTED_FAUST, Guard, UntestedFaust, require_tested
from tests.waiting import wait_until

from .scenario import Scenario

REBALANCES = 8


def on_and_off(guard: Guard) -> pytest.MarkDecorator:
    """Parametrize a test with all guards and with all but this one."""
    return pytest.mark.parametrize(
        ("guards", "lost"),
        [pytest.param(ALL, False, id="on"), pytest.param(ALL - {guard}, True, id="off")],
    )


def test_an_untested_faust_version_is_refused() -> None:
    require_tested(TESTED_FAUST)
    with pytest.raises(UntestedFaust, match=r"0\.15\.4 .* 0\.15\.3"):
        require_tested("0.15.4")


@on_and_off(Guard.COMMIT_GAPS)
def test_the_oldest_in_flight_record_survives_kill_9(
    scenario: Scenario, guards: frozenset[Guard], lost: bool
) -> None:
    """On a partition with a committed offset, and on one without."""
    scenario.create_topics(partitions=2)
    scenario.publish("0", "1")
    first = scenario.start("unordered", guards=guards, instance_id="one").wait_ready()
    wait_until(lambda: scenario.committed() == 2, "the first commit")

    scenario.publish("2 hang", "3", "4")
    scenario.publish("5 hang", "6", "7", partition=1)
    for number in (3, 4, 6, 7):
        first.wait_for("done", number)
    first.wait_for_passes("commit")
    first.kill()

    scenario.read_the_rest(guards)
    assert scenario.done().isdisjoint({2, 5}) == lost
    assert lost or {2, 5} <= scenario.done()


@on_and_off(Guard.CRASH_ON_ERROR)
def test_a_record_whose_agent_raised_is_read_again(
    scenario: Scenario, guards: frozenset[Guard], lost: bool
) -> None:
    scenario.create_topics(partitions=1)
    scenario.publish("0", "1 raise", "2")
    first = scenario.start("automatic", guards=guards, instance_id="one")
    if lost:
        first.wait_for("done", 2)
        first.wait_for_passes("commit")
        first.kill()
    else:
        assert first.exit_code() == 1
        assert "as the record says" in first.output()

    scenario.read_the_rest(guards)
    assert (1 not in scenario.done()) == lost


@pytest.mark.parametrize("agent", ["automatic", "in-batches"])
def test_a_cancelled_await_ends_the_worker_and_its_record_is_read_again(
    scenario: Scenario, agent: str
) -> None:
    """Without the guard the agent would end, and the worker would stay ready and read nothing."""
    scenario.create_topics(partitions=1)
    scenario.publish("0", "1 cancelled", "2")
    first = scenario.start(agent, instance_id="one")
    assert first.exit_code() == 1
    assert "awaited a task that was cancelled" in first.output()

    scenario.read_the_rest()
    assert {0, 1, 2} <= scenario.done()


@on_and_off(Guard.DRAIN_ON_STOP)
def test_an_in_flight_record_is_finished_before_sigterm_ends_the_worker(
    scenario: Scenario, guards: frozenset[Guard], lost: bool
) -> None:
    scenario.create_topics(partitions=1)
    scenario.publish("0 sleep")
    first = scenario.start("automatic", guards=guards, instance_id="one").wait_ready()
    first.wait_for("start", 0)
    first.terminate()
    assert first.exit_code() == 0

    scenario.read_the_rest(guards)
    assert (0 not in scenario.done()) == lost


@pytest.mark.parametrize("agent", ["automatic", "in-order", "in-batches"])
def test_a_hanging_record_delays_sigterm_for_a_limited_time_and_is_read_again(
    scenario: Scenario, agent: str
) -> None:
    scenario.create_topics(partitions=1)
    scenario.publish("0", "1 hang")
    first = scenario.start(agent, instance_id="one").wait_ready()
    first.wait_for("start", 1)
    first.terminate()
    assert first.exit_code() == 1
    assert "records still in flight" in first.output()

    scenario.read_the_rest()
    assert 1 in scenario.done()


@pytest.mark.heavy
@on_and_off(Guard.REBALANCE_SEEK)
def test_no_record_is_skipped_or_lost_in_many_rebalances(
    scenario: Scenario, guards: frozenset[Guard], lost: bool
) -> None:
    """Workers with a table join and leave, the last one by `kill -9`, while records flow.

    The window in which Faust skips records is widened to 0.3 s in both cases. Without the guard
    one of the first rebalances skips a record, and the test ends there.
    """
    scenario.create_topics(partitions=4)
    with Flow(scenario) as flow:
        scenario.start("with-table", guards=guards, slow_seek_s=0.3).wait_ready()
        for turn in range(1, REBALANCES // 2 + 1):
            guest = scenario.start("with-table", guards=guards, slow_seek_s=0.3)
            wait_until(lambda guest=guest: bool(guest.numbers("start")), "a record for the guest")
            if turn < REBALANCES // 2:
                guest.terminate()
                assert guest.exit_code() == 0
            else:
                guest.kill()
            if lost and skipped(scenario):
                return
    assert not lost, "no record was skipped"
    wait_until(lambda: scenario.done() >= set(range(flow.published)), "all records done")
    assert not skipped(scenario)


def skipped(scenario: Scenario) -> list[tuple[int, int]]:
    """Return each (partition, offset) started before an earlier record of the partition."""
    steps = sorted(step for worker in scenario.workers for step in worker.steps())
    reached = dict.fromkeys(range(scenario.partitions), -1)
    found = []
    for step in (step for step in steps if step.what == "start"):
        if step.offset > reached[step.partition] + 1:
            found.append((step.partition, step.offset))
        reached[step.partition] = max(reached[step.partition], step.offset)
    return found


class Flow:
    """Publishes a numbered record every 10 ms, to each partition in turn."""

    def __init__(self, scenario: Scenario) -> None:
        self.published = 0
        self._scenario = scenario
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._publish)

    def __enter__(self) -> "Flow":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _publish(self) -> None:
        for number in itertools.count():
            if self._over.wait(0.01):
                return
            self._scenario.publish(f"{number} work", partition=number % self._scenario.partitions)
            self.published = number + 1
