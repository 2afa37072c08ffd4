"""The audit finds what is missing, altered or foreign among the candidates of decisions."""

from dataclasses import replace
from pathlib import Path

import pytest

from esper.audit import RunRecords, audit, fetch_history, read_history, write_history
from esper.topics.bus import Record
from esper.topics.codec import decode
from esper.topics.models import DecisionCandidates
from tests.audit.tampering import changed, forged, with_value, without
from tests.audit.test_compare import finding_of, names
from tests.keys import TRUSTED
from tests.orchestrator.trainer import grown_run

HISTORIES = Path(__file__).parent / "histories"


@pytest.fixture(scope="module")
def honest() -> RunRecords:
    """A closed run of six arms, whose decisions list two of them and those that they plant."""
    run = grown_run(reports=60, selection=None, listed_candidates=2)
    return RunRecords.of("run", [*run.reports, *run.decisions, *run.candidates])


def altered(record: Record) -> bytes:
    value = (record.value or b"").replace(b'"pulls":0', b'"pulls":3', 1)
    assert value != record.value
    return value


def late(honest: RunRecords, record: Record, value: bytes | None) -> RunRecords:
    """Return the records with another one, of the place of `record`, at the end."""
    extra = replace(forged(record, value or b""), offset=honest.candidates[-1].offset + 1)
    return replace(honest, candidates=(*honest.candidates, extra))


@pytest.mark.parametrize("keys", [None, TRUSTED])
def test_an_honest_run_is_identical_and_its_candidate_records_are_counted(
    honest: RunRecords, keys: object
) -> None:
    verdict = audit(honest, keys)  # type: ignore[arg-type]
    assert verdict.finding is None
    assert verdict.candidate_records == len(honest.candidates) > 5
    assert verdict.facts()["candidate_records"] == len(honest.candidates)
    assert (
        f"{len(honest.decisions)} decisions and {len(honest.candidates)} records of their other "
        "candidates derived again from 60 reports"
    ) in str(verdict)


def test_a_run_that_lists_all_says_nothing_of_candidate_records() -> None:
    verdict = audit(read_history(HISTORIES / "honest.jsonl"))
    assert verdict.identical
    assert verdict.candidate_records == 0
    assert "candidates" not in str(verdict)


def test_an_identical_repeat_is_counted(honest: RunRecords) -> None:
    again = late(honest, honest.candidates[2], honest.candidates[2].value)
    verdict = audit(again)
    assert (verdict.identical, verdict.repeats, verdict.foreign) == (True, 1, 0)


@pytest.mark.parametrize("keys", [None, TRUSTED])
@pytest.mark.parametrize("index", [0, 3, -1])
def test_a_missing_record_is_named_by_the_report_of_its_decision(
    honest: RunRecords, index: int, keys: object
) -> None:
    index %= len(honest.candidates)
    event = decode(DecisionCandidates, honest.candidates[index].value)
    verdict = audit(replace(honest, candidates=without(honest.candidates, index)), keys)  # type: ignore[arg-type]
    assert verdict.finding is not None
    assert names(verdict.finding, honest.reports[event.seq])
    assert verdict.finding.what == (
        f"part 0 of the other candidates of its decision {event.index} is not recorded"
    )


def test_a_run_without_any_of_the_records_is_different(honest: RunRecords) -> None:
    assert "is not recorded" in finding_of(replace(honest, candidates=())).what


@pytest.mark.parametrize("keys", [None, TRUSTED])
def test_an_altered_record_is_named_with_the_field(honest: RunRecords, keys: object) -> None:
    fake = forged(honest.candidates[0], altered(honest.candidates[0]))
    verdict = audit(replace(honest, candidates=changed(honest.candidates, 0, fake)), keys)  # type: ignore[arg-type]
    assert verdict.finding is not None
    assert names(verdict.finding, honest.candidates[0])
    assert verdict.finding.what == "candidates[0].pulls is 3, the fold gives 0"


def test_an_altered_record_with_its_old_event_id_is_named(honest: RunRecords) -> None:
    fake = with_value(honest.candidates[0], altered(honest.candidates[0]))
    finding = finding_of(replace(honest, candidates=changed(honest.candidates, 0, fake)))
    assert names(finding, honest.candidates[0])
    assert "its digest differs from ce_id" in finding.what


def test_a_decision_with_the_digest_of_altered_candidates_is_named(honest: RunRecords) -> None:
    """Altering record and digest together is found by the decision."""
    record = honest.decisions[0]
    value = record.value or b""
    field = b'"other_candidates":{"count":4,"sha256":"'
    at = value.index(field) + len(field)
    fake = forged(record, value[:at] + b"0" * 64 + value[at + 64 :])
    finding = finding_of(replace(honest, decisions=changed(honest.decisions, 0, fake)))
    assert names(finding, record)
    assert finding.what.startswith("other_candidates.sha256 is 0000")


@pytest.mark.parametrize("value", [b"not JSON", b'{"run_id":"run"}'])
def test_an_undecodable_record_is_a_finding_or_foreign(honest: RunRecords, value: bytes) -> None:
    history = late(honest, honest.candidates[0], value)
    assert finding_of(history).what.startswith("not readable: DecisionCandidates: ")
    verdict = audit(history, TRUSTED)
    assert (verdict.identical, verdict.foreign) == (True, 1)


@pytest.mark.parametrize("place", [b'"seq":1', b'"seq":500'])
def test_candidates_of_no_decision_are_a_finding_or_foreign(
    honest: RunRecords, place: bytes
) -> None:
    """Also beside the genuine record of the same decision."""
    record = honest.candidates[0]
    value = altered(record).replace(b'"seq":1', place)
    history = late(honest, record, value)
    finding = finding_of(history)
    assert names(finding, history.candidates[-1])
    assert finding.what == "no decision has these candidates"
    verdict = audit(history, TRUSTED)
    assert (verdict.identical, verdict.foreign) == (True, 1)


def test_a_history_file_holds_the_records(honest: RunRecords, tmp_path: Path) -> None:
    file = tmp_path / "run.history.jsonl"
    count = len(honest.reports) + len(honest.decisions) + len(honest.candidates)
    assert write_history(honest, file) == count
    assert read_history(file) == honest
    assert audit(read_history(file)).identical


@pytest.mark.parametrize(("listed", "reads"), [(2, True), (None, False)])
def test_the_topic_is_read_only_for_runs_that_list_few(
    listed: int | None, reads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brokers of earlier versions do not have it."""
    run = grown_run(10, listed_candidates=listed)
    topics: list[str] = []

    def read(_: object, topic: str, *, key: bytes) -> list[Record]:
        topics.append(topic)
        everything = (*run.reports, *run.decisions, *run.candidates)
        return [record for record in everything if record.topic == topic and record.key == key]

    monkeypatch.setattr("esper.audit.history.read_topic", read)
    assert audit(fetch_history("nowhere:1", "run")).identical
    assert ("decision-candidates" in topics) is reads
