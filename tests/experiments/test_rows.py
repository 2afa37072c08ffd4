"""Rows and repeated runs: no case runs twice, no row is lost, failures have a row."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.result import BenchmarkError
from experiments.growth import runner
from experiments.growth.rows import Case, Ledger, RunRow
from experiments.growth.runner import CaseFilter, pending_cases, run_cases
from experiments.growth.suite import Live, Suite

CODE = "0123456789ab"


def row(control: str = "host", seed: int = 0, **fields: object) -> RunRow:
    """Return a row of a successful run, unless `error` is given."""
    return RunRow.model_validate(
        {"suite": "s", "task": "t", "control": control, "seed": seed, "commit": CODE, **fields}
    )


def make(case: Case, dependency: RunRow | None) -> RunRow:
    """Return the row of a case; the control `fails` fails."""
    if case.control == "fails":
        raise ZeroDivisionError("by\nzero")
    return RunRow(**case._asdict(), commit=CODE, kept=dependency.kept if dependency else ())


@pytest.fixture(autouse=True)
def _code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "code", lambda: CODE)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Return an empty ledger."""
    return Ledger(tmp_path / "s.csv")


def suite(*controls: str, live: Callable[[Case], Sequence[RunRow]] | None = None) -> Suite:
    """Return a suite of one task; `live` needs services, `dependent` depends on it."""

    @contextmanager
    def services() -> Iterator[Live]:
        assert live is not None, "services were started without a live case"
        yield live

    return Suite(
        name="s",
        tasks=("t",),
        cases=lambda task, seeds: (Case("s", task, c, s) for c in controls for s in range(seeds)),
        run=make,
        is_live=lambda case: case.control == "live",
        depends_on=lambda case: (
            case._replace(control="live") if case.control == "dependent" else None
        ),
        live=services,
    )


def run(of: Suite, ledger: Ledger, *, seeds: int = 1) -> list[RunRow]:
    """Run the pending cases; return the rows in the order of their completion."""
    rows: list[RunRow] = []
    run_cases(of, pending_cases(of, CaseFilter(seeds), ledger), ledger, rows.append)
    return rows


def test_row_survives_writing_and_reading(tmp_path: Path) -> None:
    full = row(
        test_accuracy=0.5,
        test_loss=1.25,
        probe_loss=0.1,
        params=10,
        steps=3,
        train_s=1.5,
        probe_s=0.0,
        wait_s=0.25,
        compile_s=0.125,
        cpu_s=2.0,
        kept=("front/image-conv", "stage1.0.conv2/gated-conv"),
        right=False,
        run_id="s-1",
    )
    failed = row(seed=1, error='LockstepBroken: waited, "timeout"')
    ledger = Ledger(tmp_path / "s.csv")
    ledger.keep(failed)
    ledger.keep(full)
    assert Ledger(tmp_path / "s.csv").rows == (full, failed)


def test_missing_measurement_is_an_empty_cell(tmp_path: Path) -> None:
    Ledger(tmp_path / "s.csv").keep(row(error="it failed"))
    head, line = (tmp_path / "s.csv").read_text().splitlines()
    cells = dict(zip(head.split(","), line.split(","), strict=True))
    assert {cells[name] for name in ("test_accuracy", "params", "wait_s", "right")} == {""}


def test_invalid_file_is_an_error_that_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    Ledger(path).keep(row())
    path.write_text(path.read_text().replace(",0,", ",zero,", 1))
    with pytest.raises(BenchmarkError, match=r"s\.csv, line 2: not a row"):
        Ledger(path)
    path.write_text("seed,colour\n1,red\n")
    with pytest.raises(BenchmarkError, match="has unknown columns colour"):
        Ledger(path)


def test_two_ledgers_of_one_file_keep_each_others_rows(tmp_path: Path) -> None:
    one, other = Ledger(tmp_path / "s.csv"), Ledger(tmp_path / "s.csv")
    one.keep(row(seed=0))
    other.keep(row(seed=1))
    one.keep(row(seed=2))
    assert [row.seed for row in Ledger(tmp_path / "s.csv").rows] == [0, 1, 2]


def test_case_with_a_row_does_not_run_again(ledger: Ledger) -> None:
    assert len(run(suite("host"), ledger)) == 1
    assert run(suite("host"), ledger) == []
    assert [row.seed for row in run(suite("host"), ledger, seeds=2)] == [1]


def test_again_repeats_only_failed_runs_and_runs_of_other_code(ledger: Ledger) -> None:
    ledger.keep(row(seed=0))
    ledger.keep(row(seed=1, error="it failed"))
    ledger.keep(row(seed=2).model_copy(update={"commit": "other"}))
    assert pending_cases(suite("host"), CaseFilter(3), ledger) == []
    again = pending_cases(suite("host"), CaseFilter(3, again=True), ledger)
    assert [case.seed for case in again] == [1, 2]


def test_control_is_selected_by_full_name_or_family(ledger: Ledger) -> None:
    of = suite("host", "fixed/a/x", "fixed/b/y")
    by_family = pending_cases(of, CaseFilter(1, controls=("fixed",)), ledger)
    assert [case.control for case in by_family] == ["fixed/a/x", "fixed/b/y"]
    in_full = pending_cases(of, CaseFilter(1, controls=("fixed/b/y",)), ledger)
    assert [case.control for case in in_full] == ["fixed/b/y"]


@pytest.mark.parametrize(
    ("case_filter", "message"),
    [
        (CaseFilter(1, tasks=("u",)), "s has no u; choose from: t"),
        (CaseFilter(1, controls=("best",)), "s has no control best; choose from: host"),
    ],
)
def test_unknown_task_or_control_is_an_error_that_lists_the_names(
    ledger: Ledger, case_filter: CaseFilter, message: str
) -> None:
    with pytest.raises(BenchmarkError, match=message):
        pending_cases(suite("host"), case_filter, ledger)


def test_failed_run_leaves_a_row_and_the_others_continue(ledger: Ledger) -> None:
    run(suite("fails", "host"), ledger)
    assert {row.control: row.error for row in Ledger(ledger.path).rows} == {
        "fails": "ZeroDivisionError: by zero",
        "host": "",
    }


def test_suite_stops_after_three_failures_in_a_row(ledger: Ledger) -> None:
    with pytest.raises(BenchmarkError, match=r"3 runs in a row failed.*--again"):
        run(suite("fails"), ledger, seeds=9)
    assert len(ledger.rows) == 3


def test_dependent_case_runs_last_and_gets_the_row_of_its_dependency(ledger: Ledger) -> None:
    def live(case: Case) -> Sequence[RunRow]:
        earlier = RunRow(**case._replace(control="earlier")._asdict(), commit=CODE)
        return earlier, RunRow(**case._asdict(), commit=CODE, kept=("front/found",))

    rows = run(suite("dependent", "live", "host", live=live), ledger)
    assert [row.control for row in rows] == ["host", "earlier", "live", "dependent"]
    assert rows[-1].kept == ("front/found",)
