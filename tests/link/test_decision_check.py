"""Which records a run accepts as decisions: its own bandit worker's, each once, in order."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from esper.link.decision_check import (
    MAX_STEPS_AHEAD,
    DecisionCheck,
    DecisionLost,
    DecisionRefused,
)
from esper.signing import Purpose, SigningKey, create_keys
from esper.topics.bus import Record
from esper.topics.codec import cloud_event_headers, digest, encode
from esper.topics.models import AdaptationDecision, SeedReport
from tests.keys import KEY, TRUSTED
from tests.training.grow_fixture import RUN, decision

REPORTS = [SeedReport(run_id=RUN, seq=seq, step=20 * seq) for seq in range(4)]


def answer(seq: int, index: int = 0, **changed: Any) -> AdaptationDecision:
    """Return a decision that answers report `seq`; an attacker has set the `changed` fields."""
    plan = decision(run_id=RUN, seq=seq, apply_at_step=REPORTS[seq].step + 1)
    cause = plan.cause.model_copy(update={"seq": seq, "sha256": digest(REPORTS[seq])})
    own = {"index": index, "cause": cause, "decision_id": plan.id_of(RUN, seq, index)}
    return plan.model_copy(update=own | changed)


def chain(*decisions: AdaptationDecision) -> Iterator[AdaptationDecision]:
    """Yield the decisions, each with the digest of the one before it."""
    previous = None
    for one in decisions:
        linked = one.model_copy(update={"previous_sha256": previous})
        previous = digest(linked)
        yield linked


def record(event: AdaptationDecision | bytes, key: SigningKey | None = KEY) -> Record:
    value = event if isinstance(event, bytes) else encode(event)
    signature = None if key is None else key.sign(Purpose.DECISION, value)
    headers = cloud_event_headers("AdaptationDecision", value, source="/test", signature=signature)
    return Record("adaptation-decision", 3, 7, 0, RUN.encode(), value, headers)


@pytest.fixture
def check() -> DecisionCheck:
    made = DecisionCheck(RUN, TRUSTED)
    for report in REPORTS:
        made.note_report(report, encode(report))
    return made


def refusal(check: DecisionCheck, refused: Record) -> str:
    """Return why a record is refused; afterwards a real decision is accepted all the same."""
    with pytest.raises(DecisionRefused) as raised:
        check.accept(refused)
    assert type(raised.value) is DecisionRefused
    real = answer(0)
    assert check.accept(record(real)) == real
    return str(raised.value)


def test_the_decisions_of_a_run_are_accepted_in_order_and_each_once(check: DecisionCheck) -> None:
    decisions = list(chain(answer(0), answer(0, 1), answer(2)))
    assert [check.accept(record(one)) for one in decisions] == decisions
    assert [check.accept(record(one)) for one in decisions] == [None, None, None]
    *_, last = chain(*decisions, answer(3))
    assert check.accept(record(last)) == last


def test_a_decision_without_a_signature_is_refused(check: DecisionCheck) -> None:
    why = refusal(check, record(answer(0), key=None))
    assert why.startswith(
        "adaptation-decision[3]@7: the signature is not of this adaptation-decision"
    )


def test_a_decision_signed_by_another_deployment_is_refused(
    check: DecisionCheck, tmp_path: Path
) -> None:
    other = SigningKey.load(create_keys(tmp_path).private)
    assert "the signature is not" in refusal(check, record(answer(0), key=other))


def test_a_decision_altered_after_signing_is_refused(check: DecisionCheck) -> None:
    signed = record(answer(0))
    assert signed.value is not None
    altered = signed.value.replace(b'"apply_at_step":1,', b'"apply_at_step":2,')
    assert altered != signed.value
    forged = Record("adaptation-decision", 3, 7, 0, signed.key, altered, signed.headers)
    assert "the signature is not" in refusal(check, forged)


def test_signed_bytes_that_are_no_decision_are_refused(check: DecisionCheck) -> None:
    assert "AdaptationDecision: " in refusal(check, record(b"not JSON"))


def test_a_decision_for_another_run_is_refused(check: DecisionCheck) -> None:
    assert "is of another run: other" in refusal(check, record(answer(0, run_id="other")))


def test_a_decision_without_its_report_is_refused(check: DecisionCheck) -> None:
    cause = answer(0).cause
    causes = [
        {"cause": cause.model_copy(update={"sha256": "0" * 64})},
        {"cause": cause.model_copy(update={"topic": "blueprint-submitted"})},
        {"cause": cause.model_copy(update={"seq": 1})},
        {"seq": 4},
    ]
    for changed in causes:
        forged = answer(0).model_copy(update=changed)
        with pytest.raises(DecisionRefused, match="which this run has not sent"):
            check.accept(record(forged))
    assert check.accept(record(answer(0))) is not None


def test_a_decision_with_an_id_of_its_own_choice_is_refused(check: DecisionCheck) -> None:
    later = answer(1).decision_id
    assert f"the decision's id {later}" in refusal(check, record(answer(0, decision_id=later)))


@pytest.mark.parametrize("step", [REPORTS[1].step, REPORTS[1].step + MAX_STEPS_AHEAD + 1, 2**62])
def test_a_decision_for_a_step_out_of_the_window_is_refused(
    check: DecisionCheck, step: int
) -> None:
    why = refusal(check, record(answer(1, apply_at_step=step)))
    assert f"asks to be applied at step {step}" in why


def test_a_decision_after_a_lost_one_is_told_from_a_forged_one(check: DecisionCheck) -> None:
    first, _lost, third = chain(answer(0), answer(1), answer(2))
    assert check.accept(record(first)) == first
    with pytest.raises(DecisionLost, match=r"decision 2\.0 does not follow the last one"):
        check.accept(record(third))


def test_the_memory_of_reports_is_bounded_by_the_unanswered_ones(check: DecisionCheck) -> None:
    decisions = list(chain(answer(0), answer(3)))
    for one in decisions:
        check.accept(record(one))
    assert list(check._reports) == [3]
    assert check.accept(record(decisions[0])) is None
