"""A committed lockstep run: every report is answered, and a removed answer is found."""

from dataclasses import replace
from pathlib import Path

import pytest

from esper.audit import audit, read_history
from esper.topics.codec import decode
from esper.topics.models import AdaptationDecision, SeedReport
from tests.audit.tampering import without

LOCKSTEP = read_history(Path(__file__).parent / "histories" / "lockstep.jsonl")
DECISIONS = [decode(AdaptationDecision, record.value) for record in LOCKSTEP.decisions]
ENDS = [index for index, decision in enumerate(DECISIONS) if not decision.operations]


def test_the_lockstep_history_is_identical_and_closed() -> None:
    result = audit(LOCKSTEP)
    assert result.finding is None
    assert result.closed
    assert len(ENDS) < result.decisions == len(DECISIONS)


def test_the_last_decision_of_every_report_ends_its_answer() -> None:
    reports = [decode(SeedReport, record.value).seq for record in LOCKSTEP.reports]
    assert [DECISIONS[index].seq for index in ENDS] == reports
    assert {decision.seq: decision for decision in DECISIONS} == {
        DECISIONS[index].seq: DECISIONS[index] for index in ENDS
    }


@pytest.mark.parametrize("end", [0, 3, -1])
def test_a_missing_end_of_an_answer_is_found(end: int) -> None:
    history = replace(LOCKSTEP, decisions=without(LOCKSTEP.decisions, ENDS[end]))
    assert not audit(history).identical
