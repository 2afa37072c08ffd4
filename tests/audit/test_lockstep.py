"""A committed lockstep run: every report is answered, and no answer can be taken away unnoticed."""

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
    verdict = audit(LOCKSTEP)
    assert verdict.finding is None
    assert verdict.closed
    assert len(ENDS) < verdict.decisions == len(DECISIONS)


def test_each_of_its_reports_has_one_end_of_an_answer_as_its_last_decision() -> None:
    reports = [decode(SeedReport, record.value).seq for record in LOCKSTEP.reports]
    assert [DECISIONS[index].seq for index in ENDS] == reports
    assert {decision.seq: decision for decision in DECISIONS} == {
        DECISIONS[index].seq: DECISIONS[index] for index in ENDS
    }


@pytest.mark.parametrize("end", [0, 3, -1])
def test_a_missing_end_of_an_answer_is_found(end: int) -> None:
    history = replace(LOCKSTEP, decisions=without(LOCKSTEP.decisions, ENDS[end]))
    assert not audit(history).identical
