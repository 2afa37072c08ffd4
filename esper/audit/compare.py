"""Fold a run's reports again and compare the result with the recorded decisions."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from esper.audit.history import RunRecords
from esper.orchestrator import FoldError, FoldState, fold
from esper.signing import BadSignature, Purpose, TrustedKeys
from esper.topics.bus import Record
from esper.topics.codec import Undecodable, decode, encode, sha256_of, signature_of
from esper.topics.models import AdaptationDecision, Cause, SeedReport

MAX_SHOWN = 100
"""Most characters shown of a value that differs."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The first invalid record, and the fault."""

    topic: str
    partition: int
    offset: int
    what: str

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.offset}: {self.what}"


@dataclass(frozen=True, slots=True)
class AuditResult:
    """The result of an audit; without a finding, decisions are identical.

    `repeats` counts identical copies of records, which a restarted producer may send. `foreign`
    counts records on the decision topic that no trusted key has signed and no report leads to;
    trainers refuse them, so they are not compared.
    """

    run_id: str
    reports: int
    decisions: int
    repeats: int
    closed: bool
    finding: Finding | None
    foreign: int = 0

    @property
    def identical(self) -> bool:
        """Whether the recorded decisions are exactly the derived ones, byte for byte."""
        return self.finding is None

    def __str__(self) -> str:
        if self.finding is not None:
            return f"different: run {self.run_id}, {self.finding}"
        repeats = f", {self.repeats} records sent twice" if self.repeats else ""
        foreign = f", {self.foreign} foreign records ignored" if self.foreign else ""
        ending = "" if self.closed else "; the run was never closed, so its end is not sealed"
        return (
            f"identical: run {self.run_id}, {self.decisions} decisions derived again from "
            f"{self.reports} reports{repeats}{foreign}{ending}"
        )

    def facts(self) -> dict[str, object]:
        """Return the result as JSON values."""
        return {
            "run_id": self.run_id,
            "identical": self.identical,
            "reports": self.reports,
            "decisions": self.decisions,
            "repeats": self.repeats,
            "foreign": self.foreign,
            "closed": self.closed,
            "finding": str(self.finding) if self.finding else None,
        }


class _Different(Exception):
    def __init__(self, record: Record, what: str) -> None:
        super().__init__(what)
        self.finding = Finding(record.topic, record.partition, record.offset, what)


class _Derived(NamedTuple):
    value: bytes
    report: Record


def audit(records: RunRecords, trusted_keys: TrustedKeys | None = None) -> AuditResult:
    """Derive every decision of a run from its reports again and compare the bytes.

    With `trusted_keys`, foreign records among the decisions are counted; without, each is a
    finding.
    """
    repeats = foreign = 0
    closed = False
    expected: list[_Derived] = []
    decisions = records.decisions
    finding = None
    try:
        reports = _without_repeats(records.run_id, records.reports, SeedReport)
        expected = list(_derive(reports))
        if trusted_keys is not None:
            decisions = tuple(_genuine(decisions, expected, trusted_keys))
            foreign = len(records.decisions) - len(decisions)
        found = _without_repeats(records.run_id, decisions, AdaptationDecision)
        repeats = len(records.reports) + len(decisions) - len(reports) - len(found)
        _compare(expected, found)
        closed = decode(SeedReport, reports[-1].value).closing
    except _Different as different:
        finding = different.finding
    return AuditResult(
        records.run_id, len(records.reports), len(expected), repeats, closed, finding, foreign
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
    decisions: Iterable[Record], expected: Iterable[_Derived], trusted_keys: TrustedKeys
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


def _check_digest(record: Record) -> None:
    """Compare the value with the digest that its producer sent as event id in the headers."""
    event_id = dict(record.headers).get("ce_id")
    if event_id not in (None, sha256_of(record.value or b"").encode()):
        raise _Different(
            record, "the value is not the published one: its digest differs from ce_id"
        )


def _without_repeats(
    run_id: str, records: tuple[Record, ...], model: type[SeedReport] | type[AdaptationDecision]
) -> list[Record]:
    """Return records without identical repeats.

    Raises:
        _Different: a record is out of order, invalid, of another run, or repeated with other bytes.
    """
    first: dict[tuple[int, int], Record] = {}
    last_offset = -1
    for record in records:
        _check_digest(record)
        if record.offset <= last_offset:
            raise _Different(record, f"out of order: it follows offset {last_offset}")
        last_offset = record.offset
        try:
            event = decode(model, record.value)
        except Undecodable as error:
            raise _Different(record, f"not readable: {error}") from error
        if event.run_id != run_id:
            raise _Different(record, f"belongs to run {event.run_id}")
        name = (event.seq, getattr(event, "index", 0))
        known = first.setdefault(name, record)
        if known.value != record.value:
            raise _Different(record, f"contradicts offset {known.offset}, which has the same seq")
    return list(first.values())


def _derive(reports: list[Record]) -> Iterator[_Derived]:
    state: FoldState | None = None
    for record in reports:
        report = decode(SeedReport, record.value)
        try:
            state, decisions = fold(state, report, cause_of(record, report))
        except FoldError as error:
            raise _Different(record, str(error)) from error
        for decision in decisions:
            yield _Derived(encode(decision), record)


def _compare(expected: list[_Derived], found: list[Record]) -> None:
    for derived, record in zip(expected, found, strict=False):
        if derived.value != record.value:
            raise _Different(record, _difference(derived.value, record.value or b""))
    if len(expected) > len(found):
        derived = expected[len(found)]
        seq = decode(AdaptationDecision, derived.value).seq
        raise _Different(derived.report, f"report {seq} leads to a decision that is not recorded")
    if len(found) > len(expected):
        raise _Different(found[len(expected)], "no report leads to this decision")


def _difference(expected: bytes, found: bytes) -> str:
    """Return a description of the first field that differs between two decisions."""
    ours = decode(AdaptationDecision, expected).model_dump(mode="json")
    theirs = decode(AdaptationDecision, found).model_dump(mode="json")
    for where, derived, recorded in _differing(ours, theirs, ""):
        return f"{where} is {_shown(recorded)}, the fold gives {_shown(derived)}"
    return "the fields are equal, the bytes are not"


def _differing(ours: Any, theirs: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield the path of every difference between two JSON values, with both sides."""
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        for name in ours:
            yield from _differing(ours[name], theirs[name], f"{where}.{name}" if where else name)
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, (own, their) in enumerate(zip(ours, theirs, strict=True)):
            yield from _differing(own, their, f"{where}[{index}]")
    elif ours != theirs:
        yield where, ours, theirs


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
