"""A run's records, from Kafka or a history file.

A history file is JSON Lines: a header, then one consumed record per line.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from esper.errors import EsperError
from esper.topics.announcements import announcement_records
from esper.topics.bus import BusError, Record, read_topic
from esper.topics.catalog import (
    ADAPTATION_DECISION,
    DECISION_CANDIDATES,
    KERNEL_READY,
    SEED_METRICS,
)
from esper.topics.codec import Undecodable, decode
from esper.topics.connection import Broker
from esper.topics.models import AdaptationDecision, Plant, SeedReport

FORMAT: Final = "esper-history/1"


class HistoryUnreadable(EsperError, ValueError):
    """The records of a run cannot be read from a file or from Kafka."""


@dataclass(frozen=True, slots=True)
class RunRecords:
    """The records of one run: reports, decisions and their candidates, each in log order.

    `candidates` are records of candidates that the decisions do not list; a run of few has none.
    `kernels` are the `kernel-ready` records of the kernels that the run planted. A replay needs
    them; an audit does not, and they are empty unless `with_kernels` read them.
    """

    run_id: str
    reports: tuple[Record, ...]
    decisions: tuple[Record, ...]
    kernels: tuple[Record, ...] = ()
    candidates: tuple[Record, ...] = ()

    @property
    def planted(self) -> frozenset[str]:
        """The ids of the kernels that the decodable decisions plant."""
        return frozenset(_planted(self.decisions))

    @classmethod
    def of(cls, run_id: str, records: Iterable[Record]) -> "RunRecords":
        """Return the records of a run among `records`, by topic and in order.

        Raises:
            HistoryUnreadable: `records` hold no report of the run.
        """
        records = tuple(records)
        own = [record for record in records if record.key == run_id.encode()]
        reports, decisions, candidates = (
            tuple(record for record in own if record.topic == topic.name)
            for topic in (SEED_METRICS, ADAPTATION_DECISION, DECISION_CANDIDATES)
        )
        if not reports:
            raise HistoryUnreadable(f"no report of run {run_id!r}; check the run id")
        kernels = tuple(record for record in records if record.topic == KERNEL_READY.name)
        return cls(run_id, reports, decisions, kernels, candidates)


def fetch_history(broker: Broker, run_id: str) -> RunRecords:
    """Read a run's records from its topics.

    Raises:
        HistoryUnreadable: the broker does not answer, or holds no report of the run.
    """
    key = run_id.encode()
    try:
        records = [
            *read_topic(broker, SEED_METRICS.name, key=key),
            *read_topic(broker, ADAPTATION_DECISION.name, key=key),
        ]
        if _lists_few(records):
            records += read_topic(broker, DECISION_CANDIDATES.name, key=key)
    except BusError as error:
        raise HistoryUnreadable(str(error)) from error
    return RunRecords.of(run_id, records)


def with_kernels(broker: Broker, records: RunRecords) -> RunRecords:
    """Return a run's records with the last announcement of each planted kernel.

    A kernel that was withdrawn has one until the topic is compacted.

    Raises:
        HistoryUnreadable: the broker does not answer.
    """
    planted = {kernel_id.encode() for kernel_id in records.planted}
    try:
        ready = announcement_records(broker, withdrawn=True) if planted else []
    except BusError as error:
        raise HistoryUnreadable(str(error)) from error
    return replace(records, kernels=tuple(record for record in ready if record.key in planted))


def write_history(records: RunRecords, file: Path) -> int:
    """Write a run's records to a history file; return the number of records."""
    lines = [
        _Line.of(record).model_dump_json()
        for record in (
            *records.reports,
            *records.decisions,
            *records.candidates,
            *records.kernels,
        )
    ]
    header = _Header(format=FORMAT, run_id=records.run_id).model_dump_json()
    file.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return len(lines)


def read_history(file: Path) -> RunRecords:
    """Read a file that `write_history` wrote.

    Raises:
        HistoryUnreadable: the file is missing or is no history file; the message names the line.
    """
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as error:
        raise HistoryUnreadable(f"cannot read {file}: {error.strerror}") from error
    try:
        run_id = _Header.model_validate_json(lines[0]).run_id
    except ValidationError as error:
        raise HistoryUnreadable(
            f"{file} is not a history: its first line is no {FORMAT} header; "
            "export one with `esper history export`"
        ) from error
    records = []
    for number, line in enumerate(lines[1:], start=2):
        if not line and number == len(lines):
            break
        try:
            records.append(_Line.model_validate_json(line).record())
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors()[0]["loc"][:2]) or "line"
            raise HistoryUnreadable(f"{file}, line {number}: not a record ({where})") from error
    return RunRecords.of(run_id, records)


class _Strict(BaseModel):
    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        ser_json_bytes="base64",
        val_json_bytes="base64",
    )


class _Header(_Strict):
    format: Literal["esper-history/1"]
    run_id: str


class _Base64(_Strict):
    base64: bytes


Text = str | _Base64
"""Bytes as JSON: a string if they are UTF-8, else base64."""


class _Line(_Strict):
    """One record as one line of the file."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: Text | None
    value: Text | None
    headers: tuple[tuple[str, Text], ...]

    @classmethod
    def of(cls, record: Record) -> "_Line":
        return cls(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            timestamp_ms=record.timestamp_ms,
            key=None if record.key is None else _text(record.key),
            value=None if record.value is None else _text(record.value),
            headers=tuple((name, _text(value)) for name, value in record.headers),
        )

    def record(self) -> Record:
        return Record(
            topic=self.topic,
            partition=self.partition,
            offset=self.offset,
            timestamp_ms=self.timestamp_ms,
            key=None if self.key is None else _bytes(self.key),
            value=None if self.value is None else _bytes(self.value),
            headers=tuple((name, _bytes(value)) for name, value in self.headers),
        )


def _text(value: bytes) -> Text:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return _Base64(base64=value)


def _bytes(text: Text) -> bytes:
    return text.base64 if isinstance(text, _Base64) else text.encode()


def _lists_few(records: Iterable[Record]) -> bool:
    """Return whether the first run configuration among the records limits the listed candidates.

    Brokers of earlier versions, and their access control, have no topic for the others.
    """
    for record in records:
        if record.topic == SEED_METRICS.name:
            try:
                run_config = decode(SeedReport, record.value).run_config
            except Undecodable:
                continue
            if run_config is not None:
                return run_config.listed_candidates is not None
    return False


def _planted(decisions: Iterable[Record]) -> Iterator[str]:
    for record in decisions:
        try:
            operations = decode(AdaptationDecision, record.value).operations
        except Undecodable:
            # The audit reports an undecodable decision; reading keeps its record.
            continue
        for operation in operations:
            if isinstance(operation, Plant):
                yield operation.kernel_id
