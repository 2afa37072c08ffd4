"""What the fold makes of a rollback: a penalty, a long embargo, and a word in the next decision."""

import pytest

from esper.orchestrator import FoldState
from esper.topics.codec import decode, encode
from esper.topics.models import (
    ROLLBACK_EMBARGO_REPORTS,
    AdaptationDecision,
    Incident,
    IncidentKind,
    Plant,
    RolledBackSeed,
    SeedReport,
    SeedState,
    SelectionLimits,
)
from tests.orchestrator.trainer import INTERVAL, Seed, Trainer, kernel, selection

REST = 7


def rolled_back(trainer: Trainer, decision: AdaptationDecision) -> Incident:
    """Take out what a decision planted, as the governor does, and tell of it in the next report."""
    seeds = []
    for operation in decision.operations:
        if isinstance(operation, Plant):
            trainer.seeds[operation.site, operation.slot] = Seed(SeedState.ROLLED_BACK)
            seeds.append(
                RolledBackSeed(
                    site=operation.site,
                    slot=operation.slot,
                    kernel_id=operation.kernel_id,
                    decision_id=decision.decision_id,
                )
            )
    return Incident(
        kind=IncidentKind.DIVERGENCE,
        step=trainer.seq * INTERVAL - 3,
        loss=9.0,
        restored_step=0,
        seeds=tuple(seeds),
    )


@pytest.fixture
def trainer() -> Trainer:
    """A site of two slots at which a kernel has just been planted; a second is on offer."""
    rules = selection()
    limits = rules.limits.model_copy(update={"rollback_embargo_reports": REST})
    opened = Trainer({"fc": 2}, selection=rules.model_copy(update={"limits": limits}))
    opened.report()
    return opened


def planted(trainer: Trainer) -> AdaptationDecision:
    (decision,) = trainer.report(kernel("fc", "a"))
    trainer.accept([decision])
    return decision


def arm(state: FoldState, blueprint: str = "a") -> tuple[int, float, int]:
    (found,) = [arm for arm in state.arms if arm.kernel.blueprint_id == blueprint]
    return found.pulls, found.mean, found.embargo_until_seq


def test_the_arm_of_what_was_rolled_back_has_the_lowest_reward_and_rests_for_long(
    trainer: Trainer,
) -> None:
    decision = planted(trainer)
    trainer.report()
    incident = rolled_back(trainer, decision)
    seq = trainer.seq
    trainer.report(incidents=[incident])
    assert arm(trainer.folded) == (1, 0.0, seq + REST)
    assert trainer.folded.trials == ()


def test_one_that_was_planted_and_rolled_back_between_two_reports_is_penalised_as_well(
    trainer: Trainer,
) -> None:
    decision = planted(trainer)
    trainer.report(incidents=[rolled_back(trainer, decision)])
    assert arm(trainer.folded)[:2] == (1, 0.0)


def test_the_next_decision_says_what_happened(trainer: Trainer) -> None:
    decision = planted(trainer)
    incident = rolled_back(trainer, decision)
    seq = trainer.seq
    (next_, *_) = trainer.report(kernel("fc", "b"), incidents=[incident])
    assert next_.reason.startswith(
        f"divergence at step {incident.step}: fc/0 rolled back, its kernel rests until "
        f"report {seq + REST}; "
    )
    assert [operation.op for operation in next_.operations] == ["plant"]


def test_where_nothing_else_is_decided_a_decision_without_operations_says_it(
    trainer: Trainer,
) -> None:
    decision = planted(trainer)
    (told,) = trainer.report(incidents=[rolled_back(trainer, decision)])
    assert told.operations == ()
    assert "rolled back" in told.reason


def test_it_is_not_planted_again_before_its_rest_is_over(trainer: Trainer) -> None:
    decision = planted(trainer)
    until = trainer.seq + REST
    trainer.report(incidents=[rolled_back(trainer, decision)])
    trainer.seeds.clear()
    while trainer.seq < until:
        assert not any(decision.operations for decision in trainer.report())
    assert any(decision.operations for decision in trainer.report())


def test_a_host_that_diverged_by_itself_is_no_one_s_fault(trainer: Trainer) -> None:
    planted(trainer)
    incident = Incident(kind=IncidentKind.NAN, step=3)
    (told,) = trainer.report(incidents=[incident])
    assert told.reason.startswith("nan at step 3 with nothing on trial: the host's own")
    assert arm(trainer.folded)[0] == 0


def test_the_state_after_an_incident_is_stored_and_read_again(trainer: Trainer) -> None:
    decision = planted(trainer)
    trainer.report(incidents=[rolled_back(trainer, decision)])
    assert FoldState.from_bytes(trainer.folded.to_bytes()) == trainer.folded


def test_what_there_is_not_is_not_in_the_bytes() -> None:
    report = SeedReport(run_id="run", seq=0, step=0)
    assert b"incidents" not in encode(report)
    assert b"rollback" not in encode(SelectionLimits())
    rest = SelectionLimits(rollback_embargo_reports=ROLLBACK_EMBARGO_REPORTS + 1)
    assert decode(SelectionLimits, encode(rest)) == rest
