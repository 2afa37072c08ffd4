"""How a person steers: pause and resume, dry runs, and what is asked for by hand."""

import pytest

from esper.audit import RunRecords, audit
from esper.topics.models import Cull, Fossilize, Plant, RequestKind
from tests.orchestrator.trainer import Trainer, kernel, selection

CULL, KEEP = RequestKind.CULL, RequestKind.KEEP
PAUSE, RESUME = RequestKind.PAUSE, RequestKind.RESUME
OFFERS = [kernel("fc", name) for name in "abc"]


@pytest.fixture
def trainer() -> Trainer:
    """One site of two slots, with long trials, its run opened."""
    opened = Trainer({"fc": 2}, selection=selection(trial_reports=50, max_on_trial=1))
    opened.report()
    return opened


@pytest.fixture
def grown(trainer: Trainer) -> Trainer:
    """The same with one active seed, at fc/1 or fc/0, and its report still to come."""
    trainer.accept(trainer.report(*OFFERS))
    trainer.report()
    return trainer


def place_of(trainer: Trainer) -> int:
    ((_, slot),) = trainer.seeds
    return slot


def audited(trainer: Trainer) -> None:
    trainer.report(closing=True)
    verdict = audit(RunRecords(trainer.run_id, tuple(trainer.reports), tuple(trainer.decisions)))
    assert verdict.identical


# -- paused -------------------------------------------------------------------------------------


def test_while_a_run_is_paused_nothing_is_decided_and_why_is_said_once(trainer: Trainer) -> None:
    (word,) = trainer.report(*OFFERS, paused=True)
    assert (word.operations, word.reason) == ((), "no action: paused by the trainer")
    assert trainer.report(paused=True) == ()
    assert trainer.report(paused=True) == ()
    (plan,) = trainer.report()
    assert isinstance(plan.operations[0], Plant)
    audited(trainer)


def test_a_run_paused_again_says_so_again(trainer: Trainer) -> None:
    assert len(trainer.report(paused=True)) == 1
    assert trainer.report() == ()
    assert len(trainer.report(paused=True)) == 1


def test_a_paused_run_goes_on_learning(grown: Trainer) -> None:
    index = ("fc", place_of(grown))
    grown.report(paused=True, contributions={index: 0.25})
    (trial,) = grown.folded.trials
    assert trial.contributions[-1] == 0.25


def test_a_paused_lockstep_run_ends_every_answer_with_that_word() -> None:
    trainer = Trainer({"fc": 2}, lockstep=True)
    trainer.report()
    for _ in range(2):
        (word,) = trainer.report(*OFFERS, paused=True)
        assert word.reason == "no action: paused by the trainer"
    audited(trainer)


# -- dry runs -----------------------------------------------------------------------------------


def test_what_is_withheld_was_never_planted_and_the_next_choice_is_shown(trainer: Trainer) -> None:
    shown = []
    for report in range(3):
        (plan,) = trainer.report(*(OFFERS if report == 0 else ()))
        shown += [
            operation.kernel_id for operation in plan.operations if isinstance(operation, Plant)
        ]
        trainer.withhold(plan)
    assert sorted(shown) == sorted(offer.kernel_id for offer in OFFERS)
    assert trainer.folded.trials == ()
    assert all(arm.pulls == 0 for arm in trainer.folded.arms)
    audited(trainer)


# -- by hand ------------------------------------------------------------------------------------


def test_a_request_is_carried_out_and_named_in_the_reason(grown: Trainer) -> None:
    slot = place_of(grown)
    request = grown.ask(CULL, "fc", slot)
    (plan,) = grown.report(requests=[request])
    planted = grown.seeds["fc", slot].kernel_id
    assert planted is not None
    assert plan.operations == (Cull(site="fc", slot=slot, kernel_id=planted),)
    assert (plan.strategy, plan.request_id) == (None, request.request_id)
    assert plan.reason == f"asked for by hand: cull fc/{slot}"
    grown.accept([plan])
    audited(grown)


def test_a_whole_site_means_all_that_can_go_on_there() -> None:
    trainer = Trainer({"fc": 3}, selection=selection(trial_reports=50, max_on_trial=3))
    trainer.report()
    for offer in OFFERS:
        trainer.accept(trainer.report(offer))
    (plan,) = trainer.report(requests=[trainer.ask(KEEP, "fc")])
    assert [type(operation) for operation in plan.operations] == [Fossilize] * 2, (
        "the third is blending"
    )
    trainer.accept([plan])
    (plan,) = trainer.report(requests=[trainer.ask(CULL, "fc")])
    assert [type(operation) for operation in plan.operations] == [Cull], (
        "two are part of the host now"
    )
    audited(trainer)


@pytest.mark.parametrize(
    ("kind", "slot", "why"),
    [
        (CULL, 0, "not done: nothing is planted at fc/0"),
        (KEEP, None, "not done: nothing is planted at fc"),
    ],
)
def test_where_nothing_is_planted_the_answer_says_so(
    trainer: Trainer, kind: RequestKind, slot: int | None, why: str
) -> None:
    request = trainer.ask(kind, "fc", slot)
    (word,) = trainer.report(requests=[request])
    assert (word.operations, word.request_id) == ((), request.request_id)
    assert word.reason.endswith(why)
    audited(trainer)


def test_what_is_blending_cannot_be_kept_yet(trainer: Trainer) -> None:
    trainer.accept(trainer.report(*OFFERS))
    slot = place_of(trainer)
    (word,) = trainer.report(requests=[trainer.ask(KEEP, "fc", slot)])
    assert word.operations == ()
    assert word.reason.endswith(f"fc/{slot} is blending, and only what is active can be kept")


def test_what_was_culled_by_hand_is_left_alone_for_a_while(grown: Trainer) -> None:
    slot = place_of(grown)
    culled = grown.seeds["fc", slot].kernel_id
    grown.accept(grown.report(requests=[grown.ask(CULL, "fc", slot)]))
    (plan,) = grown.report()
    (plant,) = plan.operations
    assert plant.kernel_id != culled
    (row,) = [one for one in plan.candidates if one.kernel_id == culled]
    assert row.constraint == "embargo"


def test_a_paused_run_does_what_is_asked_for_by_hand(grown: Trainer) -> None:
    plan, word = grown.report(paused=True, requests=[grown.ask(CULL, "fc")])
    assert isinstance(plan.operations[0], Cull)
    assert word.reason == "no action: paused by the trainer"
    grown.accept([plan])
    assert grown.report(paused=True) == ()
    audited(grown)


def test_to_pause_and_to_resume_is_answered_too(grown: Trainer) -> None:
    pause = grown.ask(PAUSE)
    answer, word = grown.report(paused=True, requests=[pause])
    assert (answer.request_id, answer.reason) == (pause.request_id, "asked for by hand: pause")
    assert word.request_id is None
    (answer,) = grown.report(requests=[grown.ask(RESUME)])
    assert answer.reason == "asked for by hand: resume"
    audited(grown)


def test_an_answer_by_hand_never_ends_the_answer_to_a_lockstep_report() -> None:
    trainer = Trainer({"fc": 2}, lockstep=True)
    trainer.report()
    *_, plan, word = trainer.report(*OFFERS, requests=[trainer.ask(CULL, "fc", 1)])
    assert isinstance(plan.operations[0], Plant), "what was not done by hand is no reason to wait"
    assert (word.operations, word.request_id) == ((), None)
    audited(trainer)


def test_while_a_decision_is_under_way_what_is_asked_for_is_done_all_the_same() -> None:
    trainer = Trainer({"fc": 2}, selection=selection(trial_reports=50, max_on_trial=2))
    trainer.report()
    trainer.accept(trainer.report(OFFERS[0]))
    slot = place_of(trainer)
    (under_way,) = trainer.report(OFFERS[1])
    trainer.reserve(under_way)
    (plan,) = trainer.report(requests=[trainer.ask(CULL, "fc", slot)])
    assert isinstance(plan.operations[0], Cull)
    trainer.apply(under_way)
    trainer.apply(plan)
    audited(trainer)
