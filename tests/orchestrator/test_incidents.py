"""A rollback leads to a penalty, a long embargo, and a notice in the next decision."""

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
    """Remove the kernels of a decision, as the governor does; return the incident to report."""
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
    """Return an opened run with one site of two slots and an embargo of `REST` reports."""
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


def test_a_rolled_back_arm_gets_reward_zero_and_the_rollback_embargo(
    trainer: Trainer,
) -> None:
    decision = planted(trainer)
    trainer.report()
    incident = rolled_back(trainer, decision)
    seq = trainer.seq
    trainer.report(incidents=[incident])
    assert arm(trainer.fold_state) == (1, 0.0, seq + REST)
    assert trainer.fold_state.trials == ()


def test_a_kernel_planted_and_rolled_back_between_two_reports_is_penalised_too(
    trainer: Trainer,
) -> None:
    decision = planted(trainer)
    trainer.report(incidents=[rolled_back(trainer, decision)])
    assert arm(trainer.fold_state)[:2] == (1, 0.0)


def test_the_next_decision_names_the_incident(trainer: Trainer) -> None:
    decision = planted(trainer)
    incident = rolled_back(trainer, decision)
    seq = trainer.seq
    (following, *_) = trainer.report(kernel("fc", "b"), incidents=[incident])
    assert following.reason.startswith(
        f"divergence at step {incident.step}: fc/0 rolled back, its kernel rests until "
        f"report {seq + REST}; "
    )
    assert [operation.op for operation in following.operations] == ["plant"]


def test_without_a_plan_a_decision_without_operations_names_the_incident(
    trainer: Trainer,
) -> None:
    decision = planted(trainer)
    (notice,) = trainer.report(incidents=[rolled_back(trainer, decision)])
    assert notice.operations == ()
    assert "rolled back" in notice.reason


def test_a_rolled_back_kernel_is_not_planted_during_its_embargo(trainer: Trainer) -> None:
    decision = planted(trainer)
    until = trainer.seq + REST
    trainer.report(incidents=[rolled_back(trainer, decision)])
    trainer.seeds.clear()
    while trainer.seq < until:
        assert not any(decision.operations for decision in trainer.report())
    assert any(decision.operations for decision in trainer.report())


def test_a_host_that_diverges_with_nothing_on_trial_penalises_no_arm(trainer: Trainer) -> None:
    planted(trainer)
    incident = Incident(kind=IncidentKind.NAN, step=3)
    (notice,) = trainer.report(incidents=[incident])
    assert notice.reason.startswith("nan at step 3 with nothing on trial: the host's own")
    assert arm(trainer.fold_state)[0] == 0


def test_the_state_after_an_incident_survives_serialisation(trainer: Trainer) -> None:
    decision = planted(trainer)
    trainer.report(incidents=[rolled_back(trainer, decision)])
    assert FoldState.from_bytes(trainer.fold_state.to_bytes()) == trainer.fold_state


def test_absent_incidents_and_default_limits_are_not_serialised() -> None:
    report = SeedReport(run_id="run", seq=0, step=0)
    assert b"incidents" not in encode(report)
    assert b"rollback" not in encode(SelectionLimits())
    rest = SelectionLimits(rollback_embargo_reports=ROLLBACK_EMBARGO_REPORTS + 1)
    assert decode(SelectionLimits, encode(rest)) == rest
