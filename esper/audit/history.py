"""A run's records as one file: JSON Lines, a header first, then each record as it was read."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from esper.topics.bus import BusError, Record, read_topic
from esper.topics.catalog import ADAPTATION_DECISION, KERNEL_READY, SEED_METRICS
from esper.topics.codec import Undecodable, decode
from esper.topics.models import AdaptationDecision, Plant

FORMAT: Final = "esper-history/1"


class HistoryUnreadable(ValueError):
    """A file, or a topic, from which no history of the run can be read."""


@dataclass(frozen=True, slots=True)
class RunRecords:
    """The records of one run, reports and decisions each in the order in which they stood.

    `kernels` are the announcements of the kernels it planted, where they were asked for: an audit
    needs none, a replay does.
    """

    run_id: str
    reports: tuple[Record, ...]
    decisions: tuple[Record, ...]
    kernels: tuple[Record, ...] = ()

    @property
    def planted(self) -> frozenset[str]:
        """The ids of the kernels that its decisions plant; of those that can be read."""
        return frozenset(_planted(self.decisions))

    @classmethod
    def of(cls, run_id: str, records: Iterable[Record]) -> "RunRecords":
        """Sort records by topic, keeping their order.

        Raises:
            HistoryUnreadable: there is not one report of the run.
        """
        records = tuple(records)
        own = [record for record in records if record.key == run_id.encode()]
        reports = tuple(record for record in own if record.topic == SEED_METRICS.name)
        decisions = tuple(record for record in own if record.topic == ADAPTATION_DECISION.name)
        if not reports:
            raise HistoryUnreadable(f"there is no report of run {run_id!r}")
        kernels = tuple(record for record in records if record.topic == KERNEL_READY.name)
        return cls(run_id, reports, decisions, kernels)


def fetch_history(bootstrap_servers: str, run_id: str) -> RunRecords:
    """Read a run's records from its two topics.

    Raises:
        HistoryUnreadable: the broker does not answer, or has no such run.
    """
    key = run_id.encode()
    try:
        records = [
            *read_topic(bootstrap_servers, SEED_METRICS.name, key=key),
            *read_topic(bootstrap_servers, ADAPTATION_DECISION.name, key=key),
        ]
    except BusError as error:
        raise HistoryUnreadable(str(error)) from error
    return RunRecords.of(run_id, records)


def with_kernels(bootstrap_servers: str, history: RunRecords) -> RunRecords:
    """Return a run's records with the last announcement of each kernel that it planted.

    Raises:
        HistoryUnreadable: the broker does not answer.
    """
    planted = {kernel_id.encode() for kernel_id in history.planted}
    try:
        standing = read_topic(bootstrap_servers, KERNEL_READY.name) if planted else []
    except BusError as error:
        raise HistoryUnreadable(str(error)) from error
    last = {record.key: record for record in standing if record.key in planted}
    return replace(history, kernels=tuple(last.values()))


def write_history(history: RunRecords, file: Path) -> int:
    """Write a history; return the number of records."""
    records = (*history.reports, *history.decisions, *history.kernels)
    header = _Header(format=FORMAT, run_id=history.run_id)
    lines = [header.model_dump_json(), *(_Line.of(record).model_dump_json() for record in records)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(records)


def read_history(file: Path) -> RunRecords:
    """Read what `write_history` wrote.

    Raises:
        HistoryUnreadable: the file is missing or is no history; the message names the line.
    """
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as error:
        raise HistoryUnreadable(f"cannot read {file}: {error.strerror}") from error
    try:
        run_id = _Header.model_validate_json(lines[0]).run_id
    except ValidationError as error:
        raise HistoryUnreadable(
            f"{file} is not a history: its first line is no {FORMAT} header"
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
"""Bytes as JSON: the text itself where they are UTF-8, as ours are; else base64."""


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


def _planted(decisions: Iterable[Record]) -> Iterator[str]:
    for record in decisions:
        try:
            operations = decode(AdaptationDecision, record.value).operations
        except Undecodable:
            # Whoever needs to read it says so; the records are kept as they are.
            continue
        for operation in operations:
            if isinstance(operation, Plant):
                yield operation.kernel_id
