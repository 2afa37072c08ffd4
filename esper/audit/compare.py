"""The audit: fold the reports again and hold the result against the decisions on record."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from esper.audit.history import RunRecords
from esper.orchestrator import FoldError, FoldState, fold
from esper.topics.bus import Record
from esper.topics.codec import Undecodable, decode, encode, sha256_of
from esper.topics.models import AdaptationDecision, Cause, SeedReport

MAX_SHOWN = 100
"""Characters shown of each of two values that differ."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The first record that is not as it must be."""

    topic: str
    partition: int
    offset: int
    what: str

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.offset}: {self.what}"


@dataclass(frozen=True, slots=True)
class AuditResult:
    """What an audit found; identical when there is no finding.

    `repeats` counts records that were sent twice, byte for byte, which a restart may cause.
    """

    run_id: str
    reports: int
    decisions: int
    repeats: int
    closed: bool
    finding: Finding | None

    @property
    def identical(self) -> bool:
        """Whether every decision was derived again, byte for byte, and none is missing."""
        return self.finding is None

    def __str__(self) -> str:
        if self.finding is not None:
            return f"different: run {self.run_id}, {self.finding}"
        repeats = f", {self.repeats} records sent twice" if self.repeats else ""
        ending = "" if self.closed else "; the run was never closed, so its end is not sealed"
        return (
            f"identical: run {self.run_id}, {self.decisions} decisions derived again from "
            f"{self.reports} reports{repeats}{ending}"
        )

    def facts(self) -> dict[str, object]:
        """Return the verdict for programs."""
        return {
            "run_id": self.run_id,
            "identical": self.identical,
            "reports": self.reports,
            "decisions": self.decisions,
            "repeats": self.repeats,
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


def audit(history: RunRecords) -> AuditResult:
    """Derive every decision of a run again from its reports and compare the bytes."""
    repeats = 0
    closed = False
    expected: list[_Derived] = []
    found: list[Record] = []
    finding = None
    try:
        for record in (*history.reports, *history.decisions):
            _check_digest(record)
        reports = _without_repeats(history.run_id, history.reports, SeedReport)
        found = _without_repeats(history.run_id, history.decisions, AdaptationDecision)
        repeats = len(history.reports) + len(history.decisions) - len(reports) - len(found)
        expected = list(_derive(reports))
        _compare(expected, found)
        closed = decode(SeedReport, reports[-1].value).closing
    except _Different as different:
        finding = different.finding
    return AuditResult(
        history.run_id, len(history.reports), len(expected), repeats, closed, finding
    )


def cause_of(record: Record, report: SeedReport) -> Cause:
    """The cause that decisions name when they answer the report read from `record`."""
    return Cause(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        seq=report.seq,
        sha256=sha256_of(record.value or b""),
    )


def _check_digest(record: Record) -> None:
    """Hold the value against the digest that its publisher put into the headers as event id."""
    event_id = dict(record.headers).get("ce_id")
    if event_id not in (None, sha256_of(record.value or b"").encode()):
        raise _Different(record, "the value is not what was published: its digest differs")


def _without_repeats(
    run_id: str, records: tuple[Record, ...], model: type[SeedReport] | type[AdaptationDecision]
) -> list[Record]:
    """Drop identical repeats of an event; an event that returns with other bytes is a finding."""
    first: dict[tuple[int, int], Record] = {}
    last_offset = -1
    for record in records:
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
        raise _Different(derived.report, f"report {seq} leads to a decision that is not on record")
    if len(found) > len(expected):
        raise _Different(found[len(expected)], "no report leads to this decision")


def _difference(expected: bytes, found: bytes) -> str:
    """Say in which field two decisions differ first."""
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
