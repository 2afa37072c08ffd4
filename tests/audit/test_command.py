"""`esper audit` and its exit codes: 0 identical, 1 different, 2 could not read."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from esper.audit import read_history, write_history
from esper.workers.cli import app

HISTORIES = Path(__file__).parent / "histories"


def audit_of(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["audit", *map(str, arguments)])


def test_an_honest_history_exits_0_and_prints_counts() -> None:
    result = audit_of("--history", HISTORIES / "honest.jsonl")
    history = read_history(HISTORIES / "honest.jsonl")
    assert result.exit_code == 0
    assert result.output == (
        f"identical: run {history.run_id}, {len(history.decisions)} decisions derived again "
        f"from {len(history.reports)} reports\n"
    )


@pytest.mark.parametrize(
    ("name", "topic", "message"),
    [
        ("tampered-report", "seed-metrics", "its digest differs"),
        ("forged-report", "adaptation-decision", "the fold gives"),
        (
            "tampered-decision",
            "adaptation-decision",
            "operations[0].ramp_steps is 21, the fold gives 20",
        ),
        ("reordered", "seed-metrics", "out of order"),
    ],
)
def test_a_tampered_history_exits_1_and_names_the_first_record(
    name: str, topic: str, message: str
) -> None:
    result = audit_of("--history", HISTORIES / f"{name}.jsonl")
    assert result.exit_code == 1
    assert result.output.startswith("different: run digits-")
    assert f", {topic}[" in result.output
    assert message in result.output
    assert result.output.count("\n") == 1


def test_json_output_is_one_document() -> None:
    result = audit_of("--history", HISTORIES / "tampered-report.jsonl", "--json")
    assert result.exit_code == 1
    facts = json.loads(result.output)
    assert facts["identical"] is False
    assert facts["finding"].startswith("seed-metrics[")


def test_a_run_without_its_seal_exits_0_with_a_warning(tmp_path: Path) -> None:
    whole = read_history(HISTORIES / "honest.jsonl")
    cut = tmp_path / "cut.jsonl"
    write_history(type(whole)(whole.run_id, whole.reports[:-1], whole.decisions[:-1]), cut)
    result = audit_of("--history", cut)
    assert result.exit_code == 0
    assert "the run was never closed, so its end is not sealed" in result.output
    assert json.loads(audit_of("--history", cut, "--json").output)["closed"] is False


@pytest.mark.parametrize("text", ["", "not a history", '{"format":"esper-history/1"}'])
def test_an_invalid_history_file_exits_2_with_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(text)
    result = audit_of("--history", file)
    assert result.exit_code == 2
    assert result.output.count("\n") == 1
    assert "is not a history" in result.output


def test_a_missing_file_exits_2(tmp_path: Path) -> None:
    result = audit_of("--history", tmp_path / "absent.jsonl")
    assert result.exit_code == 2
    assert "cannot read" in result.output


def test_an_unreachable_broker_exits_2_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    result = audit_of("digits")
    assert result.exit_code == 2
    assert "esper up" in result.output


@pytest.mark.parametrize("arguments", [(), ("run", "--history", "file")])
def test_neither_or_both_of_run_and_file_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    assert audit_of(*arguments).exit_code == 2
