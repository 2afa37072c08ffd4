"""The reports recorded after a checkpoint."""

import pytest

from esper.link import RecordUnfit, Resumption
from esper.link.resumption import reports_after
from esper.topics.bus import Record
from esper.topics.catalog import SEED_METRICS
from esper.topics.codec import encode
from esper.topics.models import SeedReport

RUN = "run"


def a_report(seq: int, *, closing: bool = False) -> SeedReport:
    return SeedReport(run_id=RUN, seq=seq, step=5 * seq, closing=closing)


def record(offset: int, value: bytes) -> Record:
    return Record(
        topic=SEED_METRICS.name,
        partition=0,
        offset=offset,
        timestamp_ms=0,
        key=RUN.encode(),
        value=value,
        headers=(),
    )


def records(*reports: SeedReport) -> list[Record]:
    return [record(offset, encode(report)) for offset, report in enumerate(reports)]


def checkpoint(next_seq: int) -> Resumption:
    last = a_report(next_seq - 1)
    return Resumption(next_seq=next_seq, last_report=last, taken=frozenset(), kernels=frozenset())


def test_reports_after_the_checkpoint_come_in_order_and_each_once() -> None:
    found = reports_after(checkpoint(2), records(*map(a_report, (0, 1, 2, 2, 3))), RUN)
    assert found.recorded == [encode(a_report(seq)) for seq in (2, 3)]
    assert not found.last_is_missing


def test_a_last_report_that_never_arrived_is_noticed() -> None:
    found = reports_after(checkpoint(3), records(*map(a_report, (0, 1))), RUN)
    assert found.last_is_missing
    assert found.recorded == []


@pytest.mark.parametrize("kept", [(1, 2), (0, 2), ()])
def test_a_run_whose_earlier_reports_are_gone_does_not_go_on(kept: tuple[int, ...]) -> None:
    gone = next(seq for seq in range(3) if seq not in kept)
    with pytest.raises(RecordUnfit, match=f"report {gone} of run run is no longer on the topic"):
        reports_after(checkpoint(3), records(*map(a_report, kept)), RUN)


def test_a_run_closed_before_the_checkpoint_does_not_go_on() -> None:
    reports = [a_report(0), a_report(1, closing=True)]
    with pytest.raises(RecordUnfit, match="closed by report 1 and cannot go on"):
        reports_after(checkpoint(2), records(*reports), RUN)


def test_the_report_that_closed_the_run_after_the_checkpoint_is_the_last_one() -> None:
    reports = [a_report(0), a_report(1), a_report(2, closing=True)]
    found = reports_after(checkpoint(1), records(*reports), RUN)
    assert found.recorded == [encode(report) for report in reports[1:]]
    assert found.closed
    assert not reports_after(checkpoint(1), records(*reports[:2]), RUN).closed


def test_a_record_that_cannot_be_read_is_named() -> None:
    with pytest.raises(RecordUnfit, match="a report of run run cannot be decoded"):
        reports_after(checkpoint(1), [record(0, b"{")], RUN)
