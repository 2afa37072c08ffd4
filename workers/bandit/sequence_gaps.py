"""A report is missing: was it lost on its way to this worker, or is it not on the topic at all?"""

from esper.topics.bus import OffsetRange, Record, find_record
from esper.topics.codec import Undecodable, decode
from esper.topics.models import SeedReport
from esper.workers.bandit.run_table import RunRow


class ReportSkipped(Exception):
    """A report stands on the topic and was not folded: the worker must read it again."""


async def require_missing(
    bootstrap_servers: str, run: RunRow, record: Record, report: SeedReport
) -> None:
    """Read the log up to a record that is not the next of its run; return if the next is not there.

    Then no restart can bring it: it was never sent, was sent out of order, or could not be read.

    Raises:
        ReportSkipped: it stands before the record; the message says where.
    """
    if run.kept is None:
        raise ValueError(f"run {report.run_id} has no report yet that another could follow")
    missing = run.kept.last_seq + 1
    span = OffsetRange(record.topic, record.partition, run.last_offset + 1, record.offset)

    def is_missing(found: Record) -> bool:
        try:
            return decode(SeedReport, found.value).seq == missing
        except Undecodable:
            return False

    found = await find_record(bootstrap_servers, span, report.run_id.encode(), is_missing)
    if found is not None:
        raise ReportSkipped(
            f"run {report.run_id}: report {missing} stands at {found.topic}[{found.partition}]"
            f"@{found.offset} and was skipped on the way to {report.seq}; if this returns after a "
            "restart, stop the workers and set the group's offset back to it"
        )
