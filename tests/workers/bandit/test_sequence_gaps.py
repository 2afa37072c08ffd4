"""`require_report_missing`: returns only for a report that the topic does not have."""

import asyncio
import secrets
from types import SimpleNamespace
from typing import Any

import pytest

from esper.topics.bus import Bus, Record, create_topics_from
from esper.topics.catalog import TopicSpec
from esper.topics.codec import encode
from esper.topics.models import SeedReport
from esper.workers.bandit.run_table import RunRow
from esper.workers.bandit.sequence_gaps import ReportSkipped, require_report_missing
from tests.waiting import TIMEOUT_S


def report(run_id: str, seq: int) -> SeedReport:
    return SeedReport(run_id=run_id, seq=seq, step=seq)


def check_last(servers: str, written: list[SeedReport], *, last_seq: int, last_offset: int) -> None:
    """Write reports and check the last one as the successor of report `last_seq` of run `a`."""
    topic = f"gaps-{secrets.token_hex(4)}"
    create_topics_from(servers, [TopicSpec(topic, 1, ())])
    bus = Bus.connect(servers, source="/esper/test")
    for written_report in written:
        bus.send(topic, written_report.run_id.encode(), encode(written_report)).result(
            timeout=TIMEOUT_S
        )
    bus.close()
    state: Any = SimpleNamespace(last_seq=last_seq)
    record_batch: Any = None
    run = RunRow(record_batch, None, state, last_offset)
    record = Record(topic, 0, len(written) - 1, 0, b"a", encode(written[-1]))
    asyncio.run(require_report_missing(servers, run, record, written[-1]))


@pytest.mark.parametrize("last_offset", [-1, 0])
def test_a_skipped_report_raises_with_its_offset(kafka: Any, last_offset: int) -> None:
    written = [report("a", 0), report("b", 1), report("a", 1), report("a", 2)]
    with pytest.raises(ReportSkipped, match=r"run a: report 1 is at .*\[0\]@2 and was skipped"):
        check_last(kafka.bootstrap_servers, written, last_seq=0, last_offset=last_offset)


def test_a_report_of_another_run_does_not_fill_the_gap(kafka: Any) -> None:
    written = [report("a", 0), report("b", 1), report("a", 2)]
    check_last(kafka.bootstrap_servers, written, last_seq=0, last_offset=0)


def test_a_later_report_does_not_fill_the_gap(kafka: Any) -> None:
    check_last(kafka.bootstrap_servers, [report("a", 0), report("a", 2)], last_seq=0, last_offset=0)
