"""Answers in a lockstep run: every report gets one, whose last decision says that it is whole."""

from collections.abc import Sequence

import pytest

from esper.topics.codec import decode, digest, encode
from esper.topics.models import AdaptationDecision, Cull, Fossilize, Plant, RunConfig
from tests.orchestrator.trainer import Trainer, grown_run, kernel


@pytest.fixture
def trainer() -> Trainer:
    """A lockstep run with one site of two slots, nothing reported yet."""
    return Trainer({"fc": 2}, lockstep=True)


def ends(decision: AdaptationDecision) -> bool:
    return decision.strategy is None and not decision.operations


def the_end(decisions: Sequence[AdaptationDecision]) -> AdaptationDecision:
    """The last of them, which must be the only one that ends an answer."""
    assert [ends(decision) for decision in decisions] == [False] * (len(decisions) - 1) + [True]
    return decisions[-1]


def test_a_report_that_leads_to_nothing_is_answered_with_why(trainer: Trainer) -> None:
    end = the_end(trainer.report())
    assert (end.seq, end.index) == (0, 0)
    assert end.reason == "nothing is decided: no kernel is on offer"


def test_after_the_decisions_comes_the_word_that_they_are_the_whole_answer(
    trainer: Trainer,
) -> None:
    plan, end = trainer.report(kernel("fc", "a"))
    assert isinstance(plan.operations[0], Plant)
    assert ends(end)
    assert (end.seq, end.index) == (plan.seq, plan.index + 1) == (0, 1)
    assert end.reason == "the decision is the whole answer to report 0"
    assert end.previous_sha256 == digest(plan)


def test_the_end_of_an_answer_awaits_no_outcome(trainer: Trainer) -> None:
    plan, _ = trainer.report(kernel("fc", "a"))
    assert [pending.decision_id for pending in trainer.folded.pending] == [plan.decision_id]


def test_where_all_arms_are_left_alone_for_one_reason_it_is_told(trainer: Trainer) -> None:
    trainer.accept(trainer.report(kernel("fc", "a")))
    assert the_end(trainer.report()).reason == (
        "nothing is decided: no trial is over and category a is present at the site"
    )


def test_where_arms_are_left_alone_for_several_reasons_their_number_is_told() -> None:
    trainer = Trainer({"fc": 2, "conv": 2}, lockstep=True)
    plan, _ = trainer.report(kernel("fc", "a"), kernel("conv", "b"))
    trainer.reserve(plan)
    trainer.refuse(plan)
    trainer.accept(trainer.report())
    assert the_end(trainer.report()).reason == (
        "nothing is decided: no trial is over and none of 2 arms may be planted"
    )


def test_a_decision_without_an_outcome_is_told_as_what_is_waited_for(trainer: Trainer) -> None:
    trainer.reserve(trainer.report(kernel("fc", "a"))[0])
    assert the_end(trainer.report(kernel("fc", "b"))).reason == (
        "nothing is decided: 1 earlier decision is not answered yet"
    )


def test_the_closing_report_is_answered_by_the_seal_alone(trainer: Trainer) -> None:
    trainer.report(kernel("fc", "a"))
    (seal,) = trainer.report(closing=True)
    assert ends(seal)
    assert seal.reason == "the run is closed; this seals its reports"


def test_every_report_is_answered_and_the_decisions_are_those_of_an_ordinary_run() -> None:
    runs = [grown_run(lockstep=lockstep) for lockstep in (False, True)]
    ordinary, lockstep = (
        [decode(AdaptationDecision, r.value) for r in run.decisions] for run in runs
    )
    assert {decision.seq for decision in lockstep} == set(range(runs[1].seq))
    asked = [
        [
            (operation.seq, operation.index, operation.operations)
            for operation in decisions
            if operation.operations
        ]
        for decisions in (ordinary, lockstep)
    ]
    assert asked[0] == asked[1]
    kinds = {type(operation) for _, _, operations in asked[0] for operation in operations}
    assert kinds == {Plant, Cull, Fossilize}


def test_an_ordinary_run_has_the_bytes_of_earlier_versions() -> None:
    run = grown_run()
    assert b"lockstep" not in run.folded.to_bytes()
    assert b"lockstep" not in (run.reports[0].value or b"")


def test_a_lockstep_run_says_so_in_its_opening_and_in_the_state(trainer: Trainer) -> None:
    trainer.report()
    assert b'"lockstep":true' in (trainer.reports[0].value or b"")
    assert trainer.folded.run.run_config.lockstep


def test_an_opening_that_does_not_know_of_lockstep_is_none() -> None:
    run_config = RunConfig(
        seed=0, slots={}, policy={"name": "ucb1"}, host_params=1, report_interval_steps=1
    )
    assert not decode(RunConfig, encode(run_config)).lockstep
