"""The history file: reading inverts writing, and errors name the invalid line."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper.audit import HistoryUnreadable, RunRecords, audit, read_history, write_history
from esper.topics.bus import Record
from esper.topics.codec import decode
from esper.topics.models import AdaptationDecision, Plant
from tests.orchestrator.trainer import grown_run

HEADER = '{"format":"esper-history/1","run_id":"run"}\n'
LINE = (
    '{"topic":"seed-metrics","partition":0,"offset":0,"timestamp_ms":0,'
    '"key":"run","value":"{}","headers":[]}\n'
)

values = st.none() | st.binary(max_size=20) | st.text(max_size=20).map(str.encode)
records = st.builds(
    Record,
    topic=st.sampled_from(("seed-metrics", "adaptation-decision")),
    partition=st.integers(0, 11),
    offset=st.integers(0, 1 << 60),
    timestamp_ms=st.integers(0, 1 << 45),
    key=st.just(b"run"),
    value=values,
    headers=st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=10)), max_size=3).map(tuple),
)
report = records.map(lambda record: Record("seed-metrics", 0, 0, 0, b"run", record.value))


@settings(suppress_health_check=list(HealthCheck))
@given(report, st.lists(records, max_size=6))
def test_reading_a_history_inverts_writing_it(
    tmp_path: Path, first: Record, others: list[Record]
) -> None:
    """Values may be missing or not UTF-8; headers may hold any bytes."""
    history = RunRecords.of("run", [first, *others])
    file = tmp_path / "run.history.jsonl"
    assert write_history(history, file) == len(others) + 1
    assert read_history(file) == history


def test_a_history_has_one_readable_line_per_record(tmp_path: Path) -> None:
    run = grown_run()
    file = tmp_path / "run.history.jsonl"
    write_history(RunRecords.of("run", [*run.reports, *run.decisions]), file)
    lines = file.read_text().splitlines()
    assert len(lines) == 1 + len(run.reports) + len(run.decisions)
    assert '"value":"{\\"closing\\":false' in lines[1]


def test_records_of_other_runs_are_left_out() -> None:
    own, foreign = (Record("seed-metrics", 0, 0, 0, key, b"{}") for key in (b"run", b"other"))
    assert RunRecords.of("run", [foreign, own, foreign]).reports == (own,)


def test_kernel_records_are_kept_and_not_needed_by_an_audit(tmp_path: Path) -> None:
    run = grown_run()
    ready = Record("kernel-ready", 3, 7, 0, b"f" * 64, b"{}")
    history = RunRecords.of("run", [*run.reports, *run.decisions, ready])
    assert history.kernels == (ready,)
    write_history(history, tmp_path / "run.history.jsonl")
    assert read_history(tmp_path / "run.history.jsonl") == history
    assert audit(history) == audit(RunRecords.of("run", [*run.reports, *run.decisions]))


def test_planted_lists_the_kernels_of_decodable_decisions() -> None:
    run = grown_run()
    planted = {
        operation.kernel_id
        for record in run.decisions
        for operation in decode(AdaptationDecision, record.value).operations
        if isinstance(operation, Plant)
    }
    unreadable = Record("adaptation-decision", 0, 999, 0, b"run", b"{")
    history = RunRecords.of("run", [*run.reports, *run.decisions, unreadable])
    assert planted
    assert history.planted == planted


def test_records_without_a_report_are_an_error() -> None:
    with pytest.raises(HistoryUnreadable, match="no report of run 'run'"):
        RunRecords.of("run", [])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(HistoryUnreadable, match=r"cannot read .*absent.jsonl: No such file"):
        read_history(tmp_path / "absent.jsonl")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "its first line is no esper-history/1 header"),
        ("\n", "its first line is no esper-history/1 header"),
        ('{"format":"esper-history/2","run_id":"run"}\n', "its first line is no"),
        (LINE, "its first line is no"),
        (HEADER + "{}\n", r"line 2: not a record \(topic\)"),
        (HEADER + LINE + "\n", r"line 3: not a record \(line\)"),
        (HEADER + LINE + LINE[:40], r"line 3: not a record \(line\)"),
        (HEADER + LINE.replace('"offset":0', '"offset":"0"'), r"line 2: .*\(offset\)"),
        (HEADER + LINE.replace('"value":"{}"', '"value":7'), r"line 2: .*\(value"),
        (HEADER + LINE.replace('"{}"', '{"base64":"%"}'), r"line 2: .*\(value"),
        (HEADER + LINE.replace("[]", '[["name"]]'), r"line 2: .*\(headers"),
        (HEADER, "no report of run 'run'"),
    ],
)
def test_an_invalid_history_file_is_an_error_that_names_the_line(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(text)
    with pytest.raises(HistoryUnreadable, match=message):
        read_history(file)
