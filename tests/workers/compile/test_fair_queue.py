"""The planner on a broker: floods, places, withdrawals, expired runs and restarts."""

import pytest

from benchmarks.compile_fleet import SITE, Fleet, blueprint, requests
from esper.blueprint import kernel_id
from esper.topics.bus import Bus
from esper.topics.catalog import BLUEPRINT_SUBMITTED
from esper.topics.models import (
    Blueprint,
    CompileStatus,
    RunStatus,
    SiteKind,
    SiteSignature,
    TrainingRun,
)
from tests.waiting import wait_until

OTHER_SITE = SiteSignature(kind=SiteKind.VECTOR, x=(4,), h=(6,))
OWN_SITE = SiteSignature(kind=SiteKind.VECTOR, x=(4,), h=(5,))
FLOOD = 120
FEW = 40
"""Kernels of the flood that may be ready before another client's: far fewer than the flood."""

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]


def blueprints(count: int, summary: str, prefix: str) -> list[Blueprint]:
    return [request.blueprint for request in requests(count, summary, prefix)]


def run(run_id: str, site: SiteSignature = SITE, **fields: object) -> TrainingRun:
    opened = TrainingRun(run_id=run_id, status=RunStatus.OPEN, sites={"fc": site})
    return opened.model_copy(update=fields)


def end(workers: Fleet, *runs: TrainingRun, withdraw: list[Blueprint]) -> None:
    """Leave neither runs nor blueprints to the next test, which has the same broker."""
    for opened in runs:
        workers.announce(opened.model_copy(update={"status": RunStatus.CLOSED}))
    sends = [
        workers.bus.send(BLUEPRINT_SUBMITTED.name, one.blueprint_id.encode(), None)
        for one in withdraw
    ]
    for sent in sends:
        sent.result(60)


def announced(workers: Fleet, wanted: list[Blueprint], site: SiteSignature = SITE) -> int:
    return sum(kernel_id(one, site) in workers.announced for one in wanted)


def test_neither_another_client_nor_a_lockstep_run_waits_for_a_flood(
    workers: Fleet, own_kafka: object
) -> None:
    flood = blueprints(FLOOD, "0.1", "flood")
    honest = blueprint("honest", "0.1")
    live, lockstep = run("live"), run("lockstep", OTHER_SITE, lockstep=True)
    workers.start(ESPER_KERNELS_IN_FLIGHT="4")
    workers.announce(live)
    workers.publish(*flood)
    client = Bus.connect(own_kafka.bootstrap_servers, source="/honest")  # type: ignore[attr-defined]
    client.publish(BLUEPRINT_SUBMITTED, honest).result(60)
    client.close()
    wait_until(lambda: announced(workers, [honest]), "the kernel of the other client")
    assert announced(workers, flood) <= FEW

    before = announced(workers, flood)
    workers.announce(lockstep)
    wait_until(lambda: announced(workers, flood, OTHER_SITE) >= 20, "kernels of the run that waits")
    assert announced(workers, flood) <= before + FEW // 2
    end(workers, live, lockstep, withdraw=[*flood, honest])


def test_a_blueprint_without_a_place_is_deferred_until_another_is_withdrawn(
    workers: Fleet,
) -> None:
    first, second, third = blueprints(3, "0.02", "place")
    opened = run("places", OWN_SITE, kernels_per_publisher=2)
    workers.start()
    workers.announce(opened)
    workers.publish(first)
    wait_until(lambda: announced(workers, [first], OWN_SITE), "the run to be known")
    workers.publish(second, third)
    deferred = kernel_id(third, None)
    wait_until(lambda: workers.rejected(deferred), "the answer that the blueprint is deferred")
    assert [event.reason_code for event in workers.rejected(deferred)] == ["deferred"]
    wait_until(lambda: announced(workers, [second], OWN_SITE), "the other kernel with a place")
    assert not announced(workers, [third], OWN_SITE)

    workers.bus.send(BLUEPRINT_SUBMITTED.name, first.blueprint_id.encode(), None).result(60)
    wait_until(lambda: announced(workers, [third], OWN_SITE), "the kernel with the free place")
    assert kernel_id(first, OWN_SITE) in workers.withdrawn
    end(workers, opened, withdraw=[second, third])


@pytest.mark.heavy
def test_a_kernel_that_is_withdrawn_while_it_compiles_is_withdrawn_when_ready(
    workers: Fleet,
) -> None:
    slow = blueprint("slow", "1.5")
    opened = run("withdrawing")
    workers.start()
    workers.announce(opened)
    workers.publish(slow)
    wait_until(
        lambda: any(
            event.status is CompileStatus.STARTED and event.kernel_id == kernel_id(slow, SITE)
            for event in list(workers.attempts)
        ),
        "the beginning of the compilation",
    )
    workers.bus.send(BLUEPRINT_SUBMITTED.name, slow.blueprint_id.encode(), None).result(60)
    wait_until(lambda: kernel_id(slow, SITE) in workers.withdrawn, "the withdrawal of the kernel")
    end(workers, opened, withdraw=[])


@pytest.mark.heavy
def test_nothing_is_planned_for_a_run_that_has_expired(workers: Fleet) -> None:
    silent, live = run("silent", OWN_SITE), run("alive", OTHER_SITE)
    workers.start(ESPER_RUN_EXPIRY_S="4")
    log = workers.folder / "compile-1.log"
    workers.announce(silent)
    wait_until(lambda: "run=silent" in log.read_text(), "the end of the run")
    late = blueprint("late", "0.02")
    workers.announce(live)
    workers.publish(late)
    wait_until(lambda: announced(workers, [late], OTHER_SITE), "the kernel of the other run")
    assert not announced(workers, [late], OWN_SITE)
    end(workers, silent, live, withdraw=[late])


@pytest.mark.heavy
def test_a_killed_planner_forgets_no_kernel(workers: Fleet) -> None:
    wanted = blueprints(24, "0.15", "restart")
    opened = run("restarting")
    (first,) = workers.start(ESPER_KERNELS_IN_FLIGHT="2", ESPER_INSTANCE_ID="planner")
    workers.announce(opened)
    workers.publish(*wanted)
    wait_until(lambda: announced(workers, wanted) >= 3, "some kernels")
    workers.kill(first)
    assert announced(workers, wanted) < len(wanted) // 2
    workers.start(ESPER_KERNELS_IN_FLIGHT="2", ESPER_INSTANCE_ID="planner")
    wait_until(lambda: announced(workers, wanted) == len(wanted), "all kernels")
    assert max(workers.compilations().values()) <= 2
    end(workers, opened, withdraw=wanted)
