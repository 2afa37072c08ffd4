"""Resuming a run: the position of its checkpoint, and the reports recorded after it."""

from collections.abc import Iterable
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from esper.errors import EsperError
from esper.topics.bus import Record
from esper.topics.codec import Undecodable, decode
from esper.topics.models import SeedReport


class RecordUnfit(EsperError, ValueError):
    """A run cannot be resumed from its recorded reports; the message says why."""


class Resumption(BaseModel):
    """The position of a checkpoint in its run.

    `next_seq` is the number of the next report. `last_report` may not have reached the broker, so
    it can be sent again. `taken` holds the ids of applied decisions, `kernels` those of the
    kernels that were offered.
    """

    model_config = ConfigDict(frozen=True)

    next_seq: int
    last_report: SeedReport
    taken: frozenset[str]
    kernels: frozenset[str]


class RecordedReports(NamedTuple):
    """The reports recorded after a checkpoint, and whether the last one before it is missing.

    `closed` is whether the last of them closed the run.
    """

    recorded: list[bytes]
    last_is_missing: bool
    closed: bool


def reports_after(
    resumption: Resumption, records: Iterable[Record], run_id: str
) -> RecordedReports:
    """Return the reports that were recorded after a checkpoint.

    Raises:
        RecordUnfit: the run was closed before the checkpoint, or reports before it are missing.
    """
    values: dict[int, bytes] = {}
    last, closed = resumption.next_seq - 1, False
    for record in records:
        try:
            report = decode(SeedReport, record.value)
        except Undecodable as error:
            raise RecordUnfit(f"a report of run {run_id} cannot be decoded: {error}") from error
        if report.closing and report.seq <= last:
            raise RecordUnfit(closed_by(report))
        closed = closed or report.closing
        values[report.seq] = record.value or b""
    reached = max(values, default=-1)
    missing = next((seq for seq in range(last) if seq not in values), None)
    if missing is not None:
        raise RecordUnfit(
            f"report {missing} of run {run_id} is no longer on the topic; resume on the broker of "
            "the run, while its topics still keep the reports"
        )
    recorded = [values[seq] for seq in range(last + 1, reached + 1)]
    return RecordedReports(recorded, last not in values, closed)


def closed_by(report: SeedReport) -> str:
    """Return why the run of its closing report cannot go on."""
    return (
        f"run {report.run_id} was closed by report {report.seq} and cannot go on; "
        "start a new run with the grown model"
    )
