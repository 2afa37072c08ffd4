"""Check whether a report missing from a run is on the topic or was never written to it."""

from esper.errors import EsperError
from esper.topics.bus import OffsetRange, Record, find_record
from esper.topics.codec import Undecodable, decode
from esper.topics.connection import Broker
from esper.topics.models import SeedReport
from esper.workers.bandit.run_table import RunRow


class ReportSkipped(EsperError):
    """A report is on the topic but was not folded: the worker must stop and read it again."""


async def require_report_missing(
    broker: Broker, row: RunRow, record: Record, report: SeedReport
) -> None:
    """Search the log before `record` for the report that should precede it; return if not found.

    A report that is not on the topic was never sent, was sent out of order or is undecodable; no
    restart of the worker can recover it.

    Raises:
        ReportSkipped: the report is on the topic before `record`; the message has its offset.
        ValueError: the run has no folded report.
    """
    if row.content is None:
        raise ValueError(f"run {report.run_id} has no folded report to follow")
    missing = row.content.last_seq + 1
    span = OffsetRange(record.topic, record.partition, row.last_offset + 1, record.offset)

    def is_missing(found: Record) -> bool:
        try:
            return decode(SeedReport, found.value).seq == missing
        except Undecodable:
            return False

    found = await find_record(broker, span, report.run_id.encode(), is_missing)
    if found is not None:
        raise ReportSkipped(
            f"run {report.run_id}: report {missing} is at {found.topic}[{found.partition}]"
            f"@{found.offset} and was skipped before report {report.seq}; restart the worker; "
            "if this error returns, stop the workers and set the group's offset to that record"
        )
