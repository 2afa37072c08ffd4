"""Resuming a run: what its trainer knows, and what was recorded since."""

from collections.abc import Iterable
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from esper.errors import EsperError
from esper.topics.bus import Record
from esper.topics.codec import Undecodable, decode
from esper.topics.models import SeedReport


class RecordUnfit(EsperError, ValueError):
    """A run whose record does not let it go on; the message says why."""


class Resumption(BaseModel):
    """Where a checkpoint stands in the record of its run.

    The next report is `next_seq`; the last one may not have arrived, and is here to be sent again.
    Decisions in `taken` (ids) are done with; `kernels` (ids) were on offer.
    """

    model_config = ConfigDict(frozen=True)

    next_seq: int
    last_report: SeedReport
    taken: frozenset[str]
    kernels: frozenset[str]


class Since(NamedTuple):
    """The reports recorded after a checkpoint, and whether the last one before it is missing."""

    logged: list[bytes]
    last_is_missing: bool


def since(resumption: Resumption, records: Iterable[Record], run_id: str) -> Since:
    """Return what the records of a run's reports hold beyond a checkpoint.

    Raises:
        RecordUnfit: the run was closed, or reports before the checkpoint are missing.
    """
    values: dict[int, bytes] = {}
    for record in records:
        try:
            report = decode(SeedReport, record.value)
        except Undecodable as error:
            raise RecordUnfit(f"a report of run {run_id} is not readable: {error}") from error
        if report.closing:
            raise RecordUnfit(
                f"run {run_id} was closed by report {report.seq} and cannot go on; "
                "start a new run with the grown model"
            )
        values[report.seq] = record.value or b""
    last = resumption.next_seq - 1
    reached = max(values, default=-1)
    gone = next((seq for seq in range(last) if seq not in values), None)
    if gone is not None:
        raise RecordUnfit(
            f"report {gone} of run {run_id} is no longer on the topic; resume only on the "
            "broker that it was on, while its topics keep its reports"
        )
    return Since([values[seq] for seq in range(last + 1, reached + 1)], last not in values)
