"""Manual control of a run: pause and resume, dry runs, requests."""

import pytest

from esper.audit import RunRecords, audit
from esper.topics.models import Cull, Fossilize, Plant, RequestKind
from tests.orchestrator.trainer import Trainer, kernel, selection

CULL, KEEP = RequestKind.CULL, RequestKind.KEEP
PAUSE, RESUME = RequestKind.PAUSE, RequestKind.RESUME
OFFERS = [kernel("fc", name) for name in "abc"]


@pytest.fixture
def trainer() -> Trainer:
    """Return an opened run with one site of two slots and long trials."""
    opened = Trainer({"fc": 2}, selection=selection(trial_reports=50, max_on_trial=1))
    opened.report()
    return opened


@pytest.fixture
def grown(trainer: Trainer) -> Trainer:
    """Return the same run with one active seed, at fc/0 or fc/1, before its first measurement."""
    trainer.accept(trainer.report(*OFFERS))
    trainer.report()
    return trainer


def planted_slot(trainer: Trainer) -> int:
    ((_, slot),) = trainer.seeds
    return slot


def assert_audited(trainer: Trainer) -> None:
    trainer.report(closing=True)
    verdict = audit(RunRecords(trainer.run_id, tuple(trainer.reports), tuple(trainer.decisions)))
    assert verdict.identical


# -- paused -------------------------------------------------------------------------------------


def test_a_paused_run_plans_nothing_and_gives_the_reason_once(trainer: Trainer) -> None:
    (no_plan,) = trainer.report(*OFFERS, paused=True)
    assert (no_plan.operations, no_plan.reason) == ((), "no action: paused by the trainer")
    assert trainer.report(paused=True) == ()
    assert trainer.report(paused=True) == ()
    (plan,) = trainer.report()
    assert isinstance(plan.operations[0], Plant)
    assert_audited(trainer)


def test_a_run_paused_again_gives_the_reason_again(trainer: Trainer) -> None:
    assert len(trainer.report(paused=True)) == 1
    assert trainer.report() == ()
    assert len(trainer.report(paused=True)) == 1


def test_a_paused_run_records_contributions(grown: Trainer) -> None:
    index = ("fc", planted_slot(grown))
    grown.report(paused=True, contributions={index: 0.25})
    (trial,) = grown.fold_state.trials
    assert trial.contributions[-1] == 0.25


def test_a_paused_lockstep_run_ends_every_answer_with_the_pause() -> None:
    trainer = Trainer({"fc": 2}, lockstep=True)
    trainer.report()
    for _ in range(2):
        (no_plan,) = trainer.report(*OFFERS, paused=True)
        assert no_plan.reason == "no action: paused by the trainer"
    assert_audited(trainer)


# -- dry runs -----------------------------------------------------------------------------------


def test_a_withheld_plan_is_not_a_trial_and_the_next_choice_follows(trainer: Trainer) -> None:
    shown = []
    for report in range(3):
        (plan,) = trainer.report(*(OFFERS if report == 0 else ()))
        shown += [
            operation.kernel_id for operation in plan.operations if isinstance(operation, Plant)
        ]
        trainer.withhold(plan)
    assert sorted(shown) == sorted(offer.kernel_id for offer in OFFERS)
    assert trainer.fold_state.trials == ()
    assert all(arm.pulls == 0 for arm in trainer.fold_state.arms)
    assert_audited(trainer)


# -- requests -----------------------------------------------------------------------------------


def test_a_request_is_executed_and_named_in_the_reason(grown: Trainer) -> None:
    slot = planted_slot(grown)
    request = grown.ask(CULL, "fc", slot)
    (plan,) = grown.report(requests=[request])
    planted = grown.seeds["fc", slot].kernel_id
    assert planted is not None
    assert plan.operations == (Cull(site="fc", slot=slot, kernel_id=planted),)
    assert (plan.strategy, plan.request_id) == (None, request.request_id)
    assert plan.reason == f"asked for by hand: cull fc/{slot}"
    grown.accept([plan])
    assert_audited(grown)


def test_a_request_for_a_site_covers_every_seed_that_allows_it() -> None:
    trainer = Trainer({"fc": 3}, selection=selection(trial_reports=50, max_on_trial=3))
    trainer.report()
    for offer in OFFERS:
        trainer.accept(trainer.report(offer))
    (plan,) = trainer.report(requests=[trainer.ask(KEEP, "fc")])
    assert [type(operation) for operation in plan.operations] == [Fossilize] * 2, (
        "the third seed is blending"
    )
    trainer.accept([plan])
    (plan,) = trainer.report(requests=[trainer.ask(CULL, "fc")])
    assert [type(operation) for operation in plan.operations] == [Cull], "two seeds are fossilized"
    assert_audited(trainer)


@pytest.mark.parametrize(
    ("kind", "slot", "reason"),
    [
        (CULL, 0, "not done: nothing is planted at fc/0"),
        (KEEP, None, "not done: nothing is planted at fc"),
    ],
)
def test_a_request_for_an_empty_slot_is_answered_with_the_reason(
    trainer: Trainer, kind: RequestKind, slot: int | None, reason: str
) -> None:
    request = trainer.ask(kind, "fc", slot)
    (no_plan,) = trainer.report(requests=[request])
    assert (no_plan.operations, no_plan.request_id) == ((), request.request_id)
    assert no_plan.reason.endswith(reason)
    assert_audited(trainer)


def test_a_blending_seed_cannot_be_kept(trainer: Trainer) -> None:
    trainer.accept(trainer.report(*OFFERS))
    slot = planted_slot(trainer)
    (no_plan,) = trainer.report(requests=[trainer.ask(KEEP, "fc", slot)])
    assert no_plan.operations == ()
    assert no_plan.reason.endswith(f"fc/{slot} is blending, and only what is active can be kept")


def test_a_manually_culled_kernel_is_under_embargo(grown: Trainer) -> None:
    slot = planted_slot(grown)
    culled = grown.seeds["fc", slot].kernel_id
    grown.accept(grown.report(requests=[grown.ask(CULL, "fc", slot)]))
    (plan,) = grown.report()
    (plant,) = plan.operations
    assert plant.kernel_id != culled
    (row,) = [one for one in plan.candidates if one.kernel_id == culled]
    assert row.constraint == "embargo"


def test_a_paused_run_executes_manual_requests(grown: Trainer) -> None:
    plan, no_plan = grown.report(paused=True, requests=[grown.ask(CULL, "fc")])
    assert isinstance(plan.operations[0], Cull)
    assert no_plan.reason == "no action: paused by the trainer"
    grown.accept([plan])
    assert grown.report(paused=True) == ()
    assert_audited(grown)


def test_pause_and_resume_requests_are_answered(grown: Trainer) -> None:
    pause = grown.ask(PAUSE)
    answer, no_plan = grown.report(paused=True, requests=[pause])
    assert (answer.request_id, answer.reason) == (pause.request_id, "asked for by hand: pause")
    assert no_plan.request_id is None
    (answer,) = grown.report(requests=[grown.ask(RESUME)])
    assert answer.reason == "asked for by hand: resume"
    assert_audited(grown)


def test_the_answer_to_a_request_does_not_end_a_lockstep_answer() -> None:
    trainer = Trainer({"fc": 2}, lockstep=True)
    trainer.report()
    *_, plan, no_plan = trainer.report(*OFFERS, requests=[trainer.ask(CULL, "fc", 1)])
    assert isinstance(plan.operations[0], Plant), (
        "a request that was not executed does not block the plan"
    )
    assert (no_plan.operations, no_plan.request_id) == ((), None)
    assert_audited(trainer)


def test_a_request_is_executed_while_a_decision_is_pending() -> None:
    trainer = Trainer({"fc": 2}, selection=selection(trial_reports=50, max_on_trial=2))
    trainer.report()
    trainer.accept(trainer.report(OFFERS[0]))
    slot = planted_slot(trainer)
    (pending,) = trainer.report(OFFERS[1])
    trainer.reserve(pending)
    (plan,) = trainer.report(requests=[trainer.ask(CULL, "fc", slot)])
    assert isinstance(plan.operations[0], Cull)
    trainer.apply(pending)
    trainer.apply(plan)
    assert_audited(trainer)
