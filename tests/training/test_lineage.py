"""`RunHistory.seed_records`: every planting with its fate."""

import pytest

from esper.topics.models import (
    AdaptationDecision,
    Cull,
    DecisionOutcome,
    Fossilize,
    OutcomeStatus,
    Plant,
)
from esper.training.lineage import RunHistory
from tests.training.grow_fixture import ZEROS, decision

PLANT = Plant(
    site="fc1", slot=0, kernel_id=ZEROS, blueprint_id="low-rank-skip", alpha=1.0, ramp_steps=4
)
CULL = Cull(site="fc1", slot=0, kernel_id=ZEROS)
KEEP = Fossilize(site="fc1", slot=0, kernel_id=ZEROS)

PLANTED = decision(PLANT, name="planted", apply_at_step=5)


def answered(
    *answers: tuple[AdaptationDecision, OutcomeStatus | None, int], reason: str | None = None
) -> RunHistory:
    """Return a history of decisions with their outcomes (None: no outcome yet) and steps."""
    run_history = RunHistory(decisions=[plan for plan, _, _ in answers])
    for plan, status, step in answers:
        if status is not None:
            run_history.outcomes[plan.decision_id] = DecisionOutcome(
                decision_id=plan.decision_id, status=status, step=step, reason=reason
            )
    return run_history


APPLIED, REFUSED = OutcomeStatus.APPLIED, OutcomeStatus.REFUSED


@pytest.mark.parametrize(
    ("run_history", "step", "fate"),
    [
        (answered((PLANTED, None, 0)), 5, "never applied"),
        (answered((PLANTED, REFUSED, 6), reason="altered"), 6, "refused: altered"),
        (answered((PLANTED, APPLIED, 6)), 6, "on trial at the end"),
        (
            answered((PLANTED, APPLIED, 6), (decision(CULL, name="cull"), APPLIED, 40)),
            6,
            "culled at 40",
        ),
        (
            answered((PLANTED, APPLIED, 6), (decision(KEEP, name="keep"), APPLIED, 60)),
            6,
            "kept at 60",
        ),
        (
            answered((PLANTED, APPLIED, 6), (decision(CULL, name="cull"), REFUSED, 40)),
            6,
            "on trial at the end",
        ),
    ],
)
def test_the_fate_of_a_seed_follows_from_the_outcomes_of_its_decisions(
    run_history: RunHistory, step: int, fate: str
) -> None:
    (record,) = run_history.seed_records()
    assert (record.step, record.fate) == (step, fate)
    assert (record.site, record.slot, record.blueprint_id) == ("fc1", 0, "low-rank-skip")
    assert record.strategy == "diversify"


def test_the_fate_of_a_merged_seed_names_the_merge() -> None:
    keep = decision(KEEP, name="keep")
    run_history = answered((PLANTED, APPLIED, 6), (keep, APPLIED, 60))
    run_history.merged.add((PLANTED.decision_id, "fc1", 0))
    (record,) = run_history.seed_records()
    assert record.fate == "merged at 60"


def test_a_kernel_planted_twice_has_two_records() -> None:
    again = decision(PLANT, name="again")
    run_history = answered(
        (PLANTED, APPLIED, 6), (decision(CULL, name="cull"), APPLIED, 40), (again, APPLIED, 80)
    )
    run_history.contributions[PLANTED.decision_id, "fc1", 0] = -0.1
    run_history.contributions[again.decision_id, "fc1", 0] = 0.3
    assert [
        (record.step, record.contribution, record.fate) for record in run_history.seed_records()
    ] == [
        (6, -0.1, "culled at 40"),
        (80, 0.3, "on trial at the end"),
    ]
