"""The audit derives an honest run again, and finds the first record of every change."""

from dataclasses import replace

import pytest

from esper.audit import AuditResult, Finding, RunRecords, audit
from esper.signing import Purpose
from esper.topics.bus import Record
from esper.topics.codec import SIGNATURE_HEADER, decode
from esper.topics.models import AdaptationDecision
from tests.audit.tampering import (
    bare,
    changed,
    forged,
    one_digit_more,
    swapped,
    swapped_places,
    with_value,
    without,
)
from tests.keys import KEY, TRUSTED
from tests.orchestrator.trainer import grown_run


@pytest.fixture(scope="module")
def honest() -> RunRecords:
    """A closed run of 60 reports under the rules of the product."""
    run = grown_run(reports=60, selection=None)
    return RunRecords.of("run", [*run.reports, *run.decisions])


def finding_of(history: RunRecords) -> Finding:
    result = audit(history)
    assert not result.identical
    assert result.finding is not None
    return result.finding


def names(finding: Finding, record: Record) -> bool:
    """Return whether a finding is about a record."""
    where = finding.topic, finding.partition, finding.offset
    return where == (record.topic, record.partition, record.offset)


# -- honest -------------------------------------------------------------------------------------


def test_an_honest_run_is_identical(honest: RunRecords) -> None:
    assert audit(honest) == AuditResult(
        run_id="run",
        reports=60,
        decisions=len(honest.decisions),
        repeats=0,
        closed=True,
        finding=None,
    )
    assert len(honest.decisions) > 5


def test_a_run_without_headers_is_audited(honest: RunRecords) -> None:
    assert audit(bare(honest)).identical


def test_identical_repeats_are_counted_and_are_no_finding(honest: RunRecords) -> None:
    """A restarted worker or a retrying producer sends the same bytes again."""

    def twice(records: tuple[Record, ...]) -> tuple[Record, ...]:
        again = replace(records[3], offset=records[-1].offset + 1)
        return (*records, again)

    history = replace(honest, reports=twice(honest.reports), decisions=twice(honest.decisions))
    result = audit(history)
    assert result.identical
    assert result.closed
    assert result.repeats == 2


def test_an_open_run_is_identical_and_not_closed(honest: RunRecords) -> None:
    seal = decode(AdaptationDecision, honest.decisions[-1].value)
    assert seal.strategy is None
    result = audit(replace(honest, reports=honest.reports[:-1], decisions=honest.decisions[:-1]))
    assert result.identical
    assert not result.closed


# -- reports ------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [0, 5, 30, -1])
def test_a_changed_report_is_named(honest: RunRecords, index: int) -> None:
    index %= len(honest.reports)
    record = honest.reports[index]
    altered = with_value(record, one_digit_more(record.value or b""))
    finding = finding_of(replace(honest, reports=changed(honest.reports, index, altered)))
    assert names(finding, record)
    assert "its digest differs" in finding.what


@pytest.mark.parametrize("index", [0, 5, 30, -1])
def test_a_report_forged_with_its_event_id_breaks_the_next_decision(
    honest: RunRecords, index: int
) -> None:
    index %= len(honest.reports)
    record = honest.reports[index]
    fake = forged(record, one_digit_more(record.value or b""))
    finding = finding_of(replace(honest, reports=changed(honest.reports, index, fake)))
    next_decision = next(
        decision
        for decision in honest.decisions
        if decode(AdaptationDecision, decision.value).seq >= index
    )
    assert names(finding, next_decision)


def test_the_finding_shows_both_values_of_the_first_field_that_differs(honest: RunRecords) -> None:
    seal = decode(AdaptationDecision, honest.decisions[-1].value)
    record = honest.reports[-1]
    fake = forged(record, (record.value or b"") + b" ")
    finding = finding_of(replace(honest, reports=(*honest.reports[:-1], fake)))
    assert finding.what.startswith(f"cause.sha256 is {seal.cause.sha256}, the fold gives ")


@pytest.mark.parametrize(
    ("index", "message"),
    [(0, "starts with report 1"), (7, "report 7 is missing, next is 8")],
)
def test_a_missing_report_is_found_at_the_next_report(
    honest: RunRecords, index: int, message: str
) -> None:
    finding = finding_of(replace(honest, reports=without(honest.reports, index)))
    assert names(finding, honest.reports[index + 1])
    assert message in finding.what


def test_a_missing_last_report_leaves_the_seal_without_a_cause(honest: RunRecords) -> None:
    finding = finding_of(replace(honest, reports=honest.reports[:-1]))
    assert names(finding, honest.decisions[-1])
    assert finding.what == "no report leads to this decision"


def test_reports_out_of_order_are_found(honest: RunRecords) -> None:
    finding = finding_of(replace(honest, reports=swapped(honest.reports, 10)))
    assert names(finding, honest.reports[10])
    assert finding.what == f"out of order: it follows offset {honest.reports[11].offset}"


def test_reports_out_of_order_with_corrected_offsets_are_found(honest: RunRecords) -> None:
    finding = finding_of(replace(honest, reports=swapped_places(honest.reports, 10)))
    assert finding.offset == honest.reports[10].offset
    assert "report 10 is missing, next is 11" in finding.what


def test_a_report_that_contradicts_an_earlier_one_is_found(honest: RunRecords) -> None:
    last = honest.reports[-1]
    value = one_digit_more(honest.reports[5].value or b"")
    late = replace(forged(honest.reports[5], value), offset=last.offset + 1)
    finding = finding_of(replace(honest, reports=(*honest.reports, late)))
    assert names(finding, late)
    assert finding.what == (
        f"contradicts offset {honest.reports[5].offset}, which has the same seq"
    )


def test_a_report_after_the_closing_one_is_found(honest: RunRecords) -> None:
    last = honest.reports[-1]
    value = (last.value or b"").replace(b'"seq":59', b'"seq":60').replace(b"true", b"false")
    extra = replace(forged(last, value), offset=last.offset + 1)
    finding = finding_of(replace(honest, reports=(*honest.reports, extra)))
    assert names(finding, extra)
    assert "was closed by report 59" in finding.what


@pytest.mark.parametrize("value", [None, b"", b"not json", b'{"run_id":"run"}', b"\xff"])
def test_an_undecodable_report_is_found(honest: RunRecords, value: bytes | None) -> None:
    record = replace(bare(honest).reports[4], value=value)
    reports = changed(honest.reports, 4, record)
    finding = finding_of(replace(honest, reports=reports))
    assert names(finding, honest.reports[4])
    assert finding.what.startswith("not readable: SeedReport: ")


def test_a_report_of_another_run_under_this_key_is_found(honest: RunRecords) -> None:
    record = honest.reports[4]
    fake = forged(record, (record.value or b"").replace(b'"run_id":"run"', b'"run_id":"sun"'))
    finding = finding_of(replace(honest, reports=changed(honest.reports, 4, fake)))
    assert names(finding, record)
    assert finding.what == "belongs to run sun"


def test_an_event_id_that_is_not_utf8_is_a_finding(honest: RunRecords) -> None:
    record = replace(honest.reports[4], headers=(("ce_id", b"\xff"),))
    finding = finding_of(replace(honest, reports=changed(honest.reports, 4, record)))
    assert names(finding, record)


# -- decisions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("forge", [with_value, forged])
def test_a_changed_decision_is_named(honest: RunRecords, forge: object) -> None:
    record = honest.decisions[2]
    value = (record.value or b"").replace(b'"alpha":1.0', b'"alpha":0.5')
    assert value != record.value
    fake = forge(record, value)  # type: ignore[operator]
    finding = finding_of(replace(honest, decisions=changed(honest.decisions, 2, fake)))
    assert names(finding, record)


def test_the_path_of_a_changed_field_is_shown(honest: RunRecords) -> None:
    record = honest.decisions[0]
    fake = forged(record, (record.value or b"").replace(b'"alpha":1.0', b'"alpha":0.5'))
    finding = finding_of(replace(honest, decisions=changed(honest.decisions, 0, fake)))
    assert finding.what == "operations[0].alpha is 0.5, the fold gives 1.0"


def test_a_decision_with_the_same_fields_in_other_bytes_is_found(honest: RunRecords) -> None:
    record = honest.decisions[2]
    fake = forged(record, (record.value or b"") + b" ")
    finding = finding_of(replace(honest, decisions=changed(honest.decisions, 2, fake)))
    assert names(finding, record)
    assert finding.what == "the fields are equal, the bytes are not"


@pytest.mark.parametrize("index", [0, 3])
def test_a_missing_decision_is_found_at_the_next_decision(honest: RunRecords, index: int) -> None:
    finding = finding_of(replace(honest, decisions=without(honest.decisions, index)))
    assert names(finding, honest.decisions[index + 1])


def test_a_missing_last_decision_is_found_at_the_report_it_answers(honest: RunRecords) -> None:
    finding = finding_of(replace(honest, decisions=honest.decisions[:-1]))
    assert names(finding, honest.reports[-1])
    assert finding.what == "report 59 leads to a decision that is not recorded"


def test_all_decisions_missing_is_found(honest: RunRecords) -> None:
    assert "not recorded" in finding_of(replace(honest, decisions=())).what


def test_decisions_out_of_order_are_found(honest: RunRecords) -> None:
    assert names(
        finding_of(replace(honest, decisions=swapped(honest.decisions, 1))), honest.decisions[1]
    )
    mended = swapped_places(honest.decisions, 1)
    assert names(finding_of(replace(honest, decisions=mended)), mended[1])


def test_an_invented_decision_is_found(honest: RunRecords) -> None:
    last = honest.decisions[-1]
    value = (last.value or b"").replace(b'"seq":59', b'"seq":60')
    extra = replace(forged(last, value), offset=last.offset + 1)
    finding = finding_of(replace(honest, decisions=(*honest.decisions, extra)))
    assert names(finding, extra)
    assert finding.what == "no report leads to this decision"


# -- foreign records ----------------------------------------------------------------------------


def with_foreign(honest: RunRecords, *values: bytes) -> RunRecords:
    """Return the records with unsigned ones before the first decision."""
    first = honest.decisions[0]
    strangers = tuple(
        replace(forged(first, value), offset=number - len(values))
        for number, value in enumerate(values, start=first.offset)
    )
    return replace(honest, decisions=(*strangers, *honest.decisions))


def test_foreign_records_are_counted_and_not_compared(honest: RunRecords) -> None:
    """Without their own keys an auditor cannot tell them from decisions of the worker."""
    altered = (honest.decisions[0].value or b"").replace(b'"index":0', b'"index":7')
    history = with_foreign(honest, altered, b"not JSON")
    result = audit(history, TRUSTED)
    assert (result.identical, result.foreign, result.repeats) == (True, 2, 0)
    assert "2 foreign records ignored" in str(result)
    assert not audit(history).identical


def test_a_signed_decision_that_no_report_leads_to_is_a_finding(honest: RunRecords) -> None:
    last = honest.decisions[-1]
    value = (last.value or b"").replace(b'"seq":59', b'"seq":60')
    signature = (SIGNATURE_HEADER, KEY.sign(Purpose.DECISION, value).encode())
    record = forged(last, value)
    extra = replace(record, offset=last.offset + 1, headers=(*record.headers, signature))
    result = audit(replace(honest, decisions=(*honest.decisions, extra)), TRUSTED)
    assert result.finding is not None
    assert names(result.finding, extra)


def test_an_altered_decision_is_missing_from_the_record(honest: RunRecords) -> None:
    altered = forged(honest.decisions[0], (honest.decisions[0].value or b"") + b" ")
    result = audit(replace(honest, decisions=changed(honest.decisions, 0, altered)), TRUSTED)
    assert (result.identical, result.foreign) == (False, 1)
