"""The plan: what open runs want, which of them waits first, and the places that are freed."""

from esper.blueprint import Submission, kernel_id
from esper.topics.models import Blueprint, RunStatus, SiteKind, SiteSignature, TrainingRun
from esper.workers.compile.plan import QUIET_MS, OpenRun, Plan, Wanted
from tests.blueprint.test_planning import blueprint

VECTOR = SiteSignature(kind=SiteKind.VECTOR, x=(8,), h=(12,))
NOW_MS = 1_000_000_000


def opened(run_id: str = "run", seen_ms: int = NOW_MS, **fields: object) -> OpenRun:
    run = TrainingRun(run_id=run_id, status=RunStatus.OPEN, sites={"fc": VECTOR})
    return OpenRun(run.model_copy(update=fields), seen_ms)


def plan_of(*names: str, run: OpenRun | None = None) -> Plan:
    plan = Plan()
    for name in names:
        plan.submit(Submission(blueprint(name), "someone"))
    if run is not None:
        plan.open(run)
    return plan


def test_an_open_run_wants_each_blueprint_that_has_a_place() -> None:
    run = opened(kernels_per_publisher=2)
    plan = plan_of("one", "two", "three", run=run)
    assert list(plan.wanted_by(run)) == [Wanted("one", VECTOR), Wanted("two", VECTOR)]
    request = plan.request(Wanted("one", VECTOR))
    assert request is not None
    assert request.kernel_id == kernel_id(blueprint("one"), VECTOR)
    assert plan.request(Wanted("three", VECTOR)) is None
    assert plan.deferred_by("three") == "run"
    assert plan.deferred_by("two") is None


def test_a_withdrawal_drops_the_request_and_frees_the_place() -> None:
    plan = plan_of("one", "two", "three", run=opened(kernels_per_publisher=2))
    before = plan.placed()
    plan.withdraw("one")
    assert plan.request(Wanted("one", VECTOR)) is None
    assert {name for _, name in plan.placed() - before} == {"three"}
    assert list(plan.wanted_of(["one", "three"])) == [Wanted("three", VECTOR)]


def test_a_closed_run_wants_nothing() -> None:
    plan = plan_of("one", run=opened())
    plan.close("run")
    plan.close("run")
    assert plan.request(Wanted("one", VECTOR)) is None
    assert list(plan.wanted_of(["one"])) == []


def test_a_run_that_is_announced_again_is_not_planned_again() -> None:
    plan = Plan()
    assert plan.open(opened(seen_ms=1))
    assert not plan.open(opened(seen_ms=5))
    assert plan.expired(before_ms=5) == []
    assert plan.expired(before_ms=6) == ["run"]
    assert plan.open(opened(seen_ms=5, task="other"))


def test_a_kernel_has_the_urgency_of_its_most_urgent_run() -> None:
    plan = plan_of("one", run=opened("quiet", NOW_MS - QUIET_MS - 1))
    wanted = Wanted("one", VECTOR)
    assert plan.urgency(wanted, NOW_MS) == 2
    plan.open(opened("live"))
    assert plan.urgency(wanted, NOW_MS) == 1
    plan.open(opened("waits", lockstep=True))
    assert plan.urgency(wanted, NOW_MS) == 0


def test_a_replaced_blueprint_is_requested_with_its_new_content() -> None:
    plan = plan_of("one", run=opened())
    changed: Blueprint = blueprint("one", width=5)
    plan.submit(Submission(changed, "someone"))
    request = plan.request(Wanted("one", VECTOR))
    assert request is not None
    assert request.blueprint == changed
