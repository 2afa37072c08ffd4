"""No byte of a committed history can be changed unnoticed, headers or not."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from esper.audit import RunRecords, audit, read_history
from esper.topics.bus import Record
from tests.audit.histories.make import tampered
from tests.audit.tampering import bare, changed, forged, with_value

HISTORIES = Path(__file__).parent / "histories"
HONEST = read_history(HISTORIES / "honest.jsonl")
RECORDS = (*HONEST.reports, *HONEST.decisions)

records = st.sampled_from(range(len(RECORDS)))
places = st.floats(0, 1, exclude_max=True)
flips = st.integers(1, 255)

many = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))


def flipped(record: Record, place: float, flip: int) -> bytes:
    """Return the record's value with bits of one byte flipped."""
    value = bytearray(record.value or b"")
    value[int(place * len(value))] ^= flip
    return bytes(value)


def with_record(history: RunRecords, index: int, record: Record) -> RunRecords:
    """Return the records with the one at an index replaced, counting reports first."""
    reports = len(history.reports)
    if index < reports:
        return replace(history, reports=changed(history.reports, index, record))
    return replace(history, decisions=changed(history.decisions, index - reports, record))


def test_the_honest_history_is_identical_and_closed() -> None:
    result = audit(HONEST)
    assert result.finding is None
    assert result.closed
    assert result.decisions == len(HONEST.decisions) >= 3


def test_each_tampered_history_differs_from_the_honest_one_in_one_change() -> None:
    for name, history in tampered(HONEST):
        assert read_history(HISTORIES / name) == history, (
            f"{name} is out of date: run `python -m tests.audit.histories.make`"
        )


@many
@given(records, places, flips)
@example(index=0, place=0.0, flip=1)
@example(index=len(RECORDS) - 1, place=0.999999, flip=32)
def test_one_changed_byte_of_any_record_is_found_at_that_record(
    index: int, place: float, flip: int
) -> None:
    record = RECORDS[index]
    altered = with_value(record, flipped(record, place, flip))
    finding = audit(with_record(HONEST, index, altered)).finding
    assert finding is not None
    assert (finding.topic, finding.offset) == (record.topic, record.offset)


@many
@given(records, places, flips, st.booleans())
def test_one_changed_byte_with_a_forged_or_removed_event_id_is_found(
    index: int, place: float, flip: int, headers: bool
) -> None:
    """The hash chain of decisions covers every report and reveals the change."""
    history = HONEST if headers else bare(HONEST)
    fake = forged(RECORDS[index], flipped(RECORDS[index], place, flip))
    if not headers:
        fake = replace(fake, headers=())
    assert audit(with_record(history, index, fake)).finding is not None


@pytest.mark.parametrize("index", range(len(RECORDS)))
def test_no_record_can_be_dropped(index: int) -> None:
    history = bare(HONEST)
    reports, decisions = list(history.reports), list(history.decisions)
    if index < len(reports):
        del reports[index]
    else:
        del decisions[index - len(reports)]
    shorter = replace(history, reports=tuple(reports), decisions=tuple(decisions))
    assert audit(shorter).finding is not None


def test_a_history_without_its_last_reports_and_decisions_is_unsealed() -> None:
    """Without later records this equals a run that stopped there."""
    seals = audit(replace(HONEST, reports=HONEST.reports[:-1], decisions=HONEST.decisions[:-1]))
    assert seals.identical
    assert not seals.closed
