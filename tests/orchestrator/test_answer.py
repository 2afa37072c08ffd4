"""Answers in a lockstep run: every report gets one, and its last decision completes it."""

from collections.abc import Sequence

import pytest

from esper.topics.codec import decode, digest, encode
from esper.topics.models import AdaptationDecision, Cull, Fossilize, Plant, RunConfig
from tests.orchestrator.trainer import Trainer, grown_run, kernel


@pytest.fixture
def trainer() -> Trainer:
    """Return a lockstep run with one site of two slots, before its first report."""
    return Trainer({"fc": 2}, lockstep=True)


def ends_answer(decision: AdaptationDecision) -> bool:
    return decision.strategy is None and not decision.operations


def end_of(decisions: Sequence[AdaptationDecision]) -> AdaptationDecision:
    """Return the last decision; assert that no other decision ends the answer."""
    assert [ends_answer(decision) for decision in decisions] == [False] * (len(decisions) - 1) + [
        True
    ]
    return decisions[-1]


def test_a_report_without_a_plan_is_answered_with_the_reason(trainer: Trainer) -> None:
    end = end_of(trainer.report())
    assert (end.seq, end.index) == (0, 0)
    assert end.reason == "nothing is decided: no kernel is on offer"


def test_the_last_decision_of_an_answer_states_that_the_answer_is_complete(
    trainer: Trainer,
) -> None:
    plan, end = trainer.report(kernel("fc", "a"))
    assert isinstance(plan.operations[0], Plant)
    assert ends_answer(end)
    assert (end.seq, end.index) == (plan.seq, plan.index + 1) == (0, 1)
    assert end.reason == "the decision is the whole answer to report 0"
    assert end.previous_sha256 == digest(plan)


def test_the_end_of_an_answer_is_not_pending(trainer: Trainer) -> None:
    plan, _ = trainer.report(kernel("fc", "a"))
    assert [pending.decision_id for pending in trainer.fold_state.pending] == [plan.decision_id]


def test_a_constraint_that_excludes_all_arms_is_the_reason(trainer: Trainer) -> None:
    trainer.accept(trainer.report(kernel("fc", "a")))
    assert end_of(trainer.report()).reason == (
        "nothing is decided: no trial is over and category a is present at the site"
    )


def test_with_several_constraints_the_reason_counts_the_excluded_arms() -> None:
    trainer = Trainer({"fc": 2, "conv": 2}, lockstep=True)
    plan, _ = trainer.report(kernel("fc", "a"), kernel("conv", "b"))
    trainer.reserve(plan)
    trainer.refuse(plan)
    trainer.accept(trainer.report())
    assert end_of(trainer.report()).reason == (
        "nothing is decided: no trial is over and none of 2 arms may be planted"
    )


def test_a_pending_decision_is_the_reason(trainer: Trainer) -> None:
    trainer.reserve(trainer.report(kernel("fc", "a"))[0])
    assert end_of(trainer.report(kernel("fc", "b"))).reason == (
        "nothing is decided: 1 earlier decision is not answered yet"
    )


def test_the_closing_report_is_answered_by_the_seal_only(trainer: Trainer) -> None:
    trainer.report(kernel("fc", "a"))
    (seal,) = trainer.report(closing=True)
    assert ends_answer(seal)
    assert seal.reason == "the run is closed; this seals its reports"


def test_every_lockstep_report_is_answered_with_the_plans_of_an_ordinary_run() -> None:
    runs = [grown_run(lockstep=lockstep) for lockstep in (False, True)]
    ordinary, lockstep = (
        [decode(AdaptationDecision, r.value) for r in run.decisions] for run in runs
    )
    assert {decision.seq for decision in lockstep} == set(range(runs[1].seq))
    plans = [
        [
            (operation.seq, operation.index, operation.operations)
            for operation in decisions
            if operation.operations
        ]
        for decisions in (ordinary, lockstep)
    ]
    assert plans[0] == plans[1]
    kinds = {type(operation) for _, _, operations in plans[0] for operation in operations}
    assert kinds == {Plant, Cull, Fossilize}


def test_an_ordinary_run_does_not_serialise_lockstep() -> None:
    run = grown_run()
    assert b"lockstep" not in run.fold_state.to_bytes()
    assert b"lockstep" not in (run.reports[0].value or b"")


def test_lockstep_is_in_the_run_config_and_in_the_state(trainer: Trainer) -> None:
    trainer.report()
    assert b'"lockstep":true' in (trainer.reports[0].value or b"")
    assert trainer.fold_state.run.run_config.lockstep


def test_a_run_config_without_the_field_is_not_lockstep() -> None:
    run_config = RunConfig(
        seed=0, slots={}, policy={"name": "ucb1"}, host_params=1, report_interval_steps=1
    )
    assert not decode(RunConfig, encode(run_config)).lockstep
