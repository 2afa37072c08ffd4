"""Fold a run's reports again and compare the result with the recorded decisions."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from esper.audit.candidates import compare_candidates
from esper.audit.finding import Derived, Different, Finding, check_digest, difference
from esper.audit.history import RunRecords
from esper.orchestrator import FoldError, FoldState, fold
from esper.signing import BadSignature, Purpose, TrustedKeys
from esper.topics.bus import Record
from esper.topics.codec import Undecodable, decode, encode, sha256_of, signature_of
from esper.topics.models import AdaptationDecision, Cause, SeedReport


@dataclass(frozen=True, slots=True)
class AuditResult:
    """The result of an audit; without a finding, decisions are identical.

    `repeats` counts identical copies of records, which a restarted producer may send. `foreign`
    counts records that no report leads to, and no trusted key has signed; trainers do not act on
    them, so they are not compared. `candidate_records` counts the derived records of candidates
    that decisions do not list.
    """

    run_id: str
    reports: int
    decisions: int
    repeats: int
    closed: bool
    finding: Finding | None
    foreign: int = 0
    candidate_records: int = 0

    @property
    def identical(self) -> bool:
        """Whether the recorded decisions are exactly the derived ones, byte for byte."""
        return self.finding is None

    def __str__(self) -> str:
        if self.finding is not None:
            return f"different: run {self.run_id}, {self.finding}"
        repeats = f", {self.repeats} records sent twice" if self.repeats else ""
        foreign = f", {self.foreign} foreign records ignored" if self.foreign else ""
        count = self.candidate_records
        candidates = f" and {count} records of their other candidates" if count else ""
        ending = "" if self.closed else "; the run was never closed, so its end is not sealed"
        return (
            f"identical: run {self.run_id}, {self.decisions} decisions{candidates} derived again "
            f"from {self.reports} reports{repeats}{foreign}{ending}"
        )

    def facts(self) -> dict[str, object]:
        """Return the result as JSON values."""
        return {
            "run_id": self.run_id,
            "identical": self.identical,
            "reports": self.reports,
            "decisions": self.decisions,
            "candidate_records": self.candidate_records,
            "repeats": self.repeats,
            "foreign": self.foreign,
            "closed": self.closed,
            "finding": str(self.finding) if self.finding else None,
        }


def audit(records: RunRecords, trusted_keys: TrustedKeys | None = None) -> AuditResult:
    """Derive every decision of a run from its reports again and compare the bytes.

    The records of candidates that the decisions do not list are compared likewise. With
    `trusted_keys`, foreign records are counted; without, each is a finding.
    """
    repeats = foreign = 0
    closed = False
    expected: list[Derived] = []
    candidates: list[Derived] = []
    decisions = records.decisions
    finding = None
    try:
        reports = _without_repeats(records.run_id, records.reports, SeedReport)
        expected, candidates = _derive(reports)
        if trusted_keys is not None:
            decisions = tuple(_genuine(decisions, expected, trusted_keys))
            foreign = len(records.decisions) - len(decisions)
        found = _without_repeats(records.run_id, decisions, AdaptationDecision)
        repeats = len(records.reports) + len(decisions) - len(reports) - len(found)
        _compare(expected, found)
        counts = compare_candidates(
            candidates, records.candidates, pass_foreign=trusted_keys is not None
        )
        repeats, foreign = repeats + counts.repeats, foreign + counts.foreign
        closed = decode(SeedReport, reports[-1].value).closing
    except Different as different:
        finding = different.finding
    return AuditResult(
        run_id=records.run_id,
        reports=len(records.reports),
        decisions=len(expected),
        repeats=repeats,
        closed=closed,
        finding=finding,
        foreign=foreign,
        candidate_records=len(candidates),
    )


def cause_of(record: Record, report: SeedReport) -> Cause:
    """Return the cause of the decisions that answer the report in `record`."""
    return Cause(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        seq=report.seq,
        sha256=sha256_of(record.value or b""),
    )


def _genuine(
    decisions: Iterable[Record], expected: Iterable[Derived], trusted_keys: TrustedKeys
) -> Iterator[Record]:
    """Yield the decisions that a trusted key has signed, or that a report leads to."""
    derived = {one.value for one in expected}
    for record in decisions:
        value = record.value or b""
        if value not in derived:
            try:
                trusted_keys.verify(Purpose.DECISION, value, signature_of(record.headers))
            except BadSignature:
                continue
        yield record


def _without_repeats(
    run_id: str, records: tuple[Record, ...], model: type[SeedReport] | type[AdaptationDecision]
) -> list[Record]:
    """Return records without identical repeats.

    Raises:
        Different: a record is out of order, invalid, of another run, or repeated with other bytes.
    """
    first: dict[tuple[int, int], Record] = {}
    last_offset = -1
    for record in records:
        check_digest(record)
        if record.offset <= last_offset:
            raise Different(record, f"out of order: it follows offset {last_offset}")
        last_offset = record.offset
        try:
            event = decode(model, record.value)
        except Undecodable as error:
            raise Different(record, f"not readable: {error}") from error
        if event.run_id != run_id:
            raise Different(record, f"belongs to run {event.run_id}")
        name = (event.seq, getattr(event, "index", 0))
        known = first.setdefault(name, record)
        if known.value != record.value:
            raise Different(record, f"contradicts offset {known.offset}, which has the same seq")
    return list(first.values())


def _derive(reports: list[Record]) -> tuple[list[Derived], list[Derived]]:
    """Return the decisions that the reports lead to, and the records of their other candidates."""
    state: FoldState | None = None
    decided: list[Derived] = []
    others: list[Derived] = []
    for record in reports:
        report = decode(SeedReport, record.value)
        try:
            state, decisions, candidates = fold(state, report, cause_of(record, report))
        except FoldError as error:
            raise Different(record, str(error)) from error
        decided += [Derived(encode(decision), record) for decision in decisions]
        others += [Derived(encode(event), record) for event in candidates]
    return decided, others


def _compare(expected: list[Derived], found: list[Record]) -> None:
    for derived, record in zip(expected, found, strict=False):
        if derived.value != record.value:
            raise Different(
                record, difference(AdaptationDecision, derived.value, record.value or b"")
            )
    if len(expected) > len(found):
        derived = expected[len(found)]
        seq = decode(AdaptationDecision, derived.value).seq
        raise Different(derived.report, f"report {seq} leads to a decision that is not recorded")
    if len(found) > len(expected):
        raise Different(found[len(expected)], "no report leads to this decision")
