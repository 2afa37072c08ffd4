"""A missing report: only one that is not on the topic is a hole for good."""

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
from esper.workers.bandit.sequence_gaps import ReportSkipped, require_missing


def report(run_id: str, seq: int) -> SeedReport:
    return SeedReport(run_id=run_id, seq=seq, step=seq)


def judge(servers: str, written: list[SeedReport], *, last_seq: int, last_offset: int) -> None:
    """Write reports; then take the last one for what came after `last_seq` of run `a`."""
    topic = f"holes-{secrets.token_hex(4)}"
    create_topics_from(servers, [TopicSpec(topic, 1, ())])
    bus = Bus.connect(servers, source="/esper/test")
    for each in written:
        bus.send(topic, each.run_id.encode(), encode(each)).result(timeout=10)
    bus.close()
    kept: Any = SimpleNamespace(last_seq=last_seq)
    record_batch: Any = None
    run = RunRow(record_batch, None, kept, last_offset)
    record = Record(topic, 0, len(written) - 1, 0, b"a", encode(written[-1]))
    asyncio.run(require_missing(servers, run, record, written[-1]))


@pytest.mark.parametrize("last_offset", [-1, 0])
def test_a_report_that_stands_on_the_topic_was_skipped_and_the_worker_must_stop(
    kafka: Any, last_offset: int
) -> None:
    written = [report("a", 0), report("b", 1), report("a", 1), report("a", 2)]
    with pytest.raises(ReportSkipped, match=r"run a: report 1 stands at .*\[0\]@2 and was skipped"):
        judge(kafka.bootstrap_servers, written, last_seq=0, last_offset=last_offset)


def test_a_report_of_another_run_does_not_fill_a_hole(kafka: Any) -> None:
    written = [report("a", 0), report("b", 1), report("a", 2)]
    judge(kafka.bootstrap_servers, written, last_seq=0, last_offset=0)


def test_a_report_that_comes_after_does_not_fill_a_hole(kafka: Any) -> None:
    judge(kafka.bootstrap_servers, [report("a", 0), report("a", 2)], last_seq=0, last_offset=0)
