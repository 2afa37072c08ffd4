"""Rows and what is run again: nothing twice, nothing lost, and failures on record."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.growth import runner
from benchmarks.growth.rows import Case, Ledger, Row
from benchmarks.growth.runner import Wanted, carry_out, pending
from benchmarks.growth.suite import Live, Suite
from benchmarks.result import BenchmarkError

CODE = "0123456789ab"


def row(control: str = "host", seed: int = 0, **told: object) -> Row:
    """A row of a run that did not fail, unless told so."""
    return Row.model_validate(
        {"suite": "s", "task": "t", "control": control, "seed": seed, "commit": CODE, **told}
    )


def make(case: Case, leant_on: Row | None) -> Row:
    """Run a case, in whatever process: one named `fails` fails."""
    if case.control == "fails":
        raise ZeroDivisionError("by\nzero")
    return Row(**case._asdict(), commit=CODE, kept=leant_on.kept if leant_on else ())


@pytest.fixture(autouse=True)
def _code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "code", lambda: CODE)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """An empty ledger."""
    return Ledger(tmp_path / "s.csv")


def suite(*controls: str, live: Callable[[Case], Sequence[Row]] | None = None) -> Suite:
    """A suite of one task; `decided` needs services, and `leans` on it."""

    @contextmanager
    def services() -> Iterator[Live]:
        assert live is not None, "services were brought up for nothing"
        yield live

    return Suite(
        name="s",
        tasks=("t",),
        cases=lambda task, seeds: (Case("s", task, c, s) for c in controls for s in range(seeds)),
        run=make,
        is_live=lambda case: case.control == "decided",
        leans_on=lambda case: case._replace(control="decided") if case.control == "leans" else None,
        live=services,
    )


def run(of: Suite, ledger: Ledger, *, seeds: int = 1) -> list[Row]:
    """Run what is pending, and return the rows in the order in which they came."""
    told: list[Row] = []
    carry_out(of, pending(of, Wanted(seeds), ledger), ledger, told.append)
    return told


def test_a_row_is_the_same_after_it_was_written_and_read(tmp_path: Path) -> None:
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
    failed = row(seed=1, error='LockstepBroken: waited, "in vain"')
    ledger = Ledger(tmp_path / "s.csv")
    ledger.keep(failed)
    ledger.keep(full)
    assert Ledger(tmp_path / "s.csv").rows == (full, failed)


def test_what_was_not_measured_is_empty_and_not_zero(tmp_path: Path) -> None:
    Ledger(tmp_path / "s.csv").keep(row(error="it failed"))
    head, line = (tmp_path / "s.csv").read_text().splitlines()
    cells = dict(zip(head.split(","), line.split(","), strict=True))
    assert {cells[name] for name in ("test_accuracy", "params", "wait_s", "right")} == {""}


def test_a_file_that_is_none_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    Ledger(path).keep(row())
    path.write_text(path.read_text().replace(",0,", ",zero,", 1))
    with pytest.raises(BenchmarkError, match=r"s\.csv, line 2: not a row"):
        Ledger(path)
    path.write_text("seed,colour\n1,red\n")
    with pytest.raises(BenchmarkError, match="has columns that no row has"):
        Ledger(path)


def test_two_ledgers_of_one_file_lose_no_row_of_each_other(tmp_path: Path) -> None:
    one, other = Ledger(tmp_path / "s.csv"), Ledger(tmp_path / "s.csv")
    one.keep(row(seed=0))
    other.keep(row(seed=1))
    one.keep(row(seed=2))
    assert [each.seed for each in Ledger(tmp_path / "s.csv").rows] == [0, 1, 2]


def test_what_has_a_row_is_not_run_again(ledger: Ledger) -> None:
    assert len(run(suite("host"), ledger)) == 1
    assert run(suite("host"), ledger) == []
    assert [each.seed for each in run(suite("host"), ledger, seeds=2)] == [1]


def test_again_runs_what_failed_and_what_other_code_ran_and_no_more(ledger: Ledger) -> None:
    ledger.keep(row(seed=0))
    ledger.keep(row(seed=1, error="it failed"))
    ledger.keep(row(seed=2).model_copy(update={"commit": "other"}))
    assert pending(suite("host"), Wanted(3), ledger) == []
    again = pending(suite("host"), Wanted(3, again=True), ledger)
    assert [case.seed for case in again] == [1, 2]


def test_a_control_is_named_in_full_or_by_its_family(ledger: Ledger) -> None:
    of = suite("host", "fixed/a/x", "fixed/b/y")
    by_family = pending(of, Wanted(1, controls=("fixed",)), ledger)
    assert [case.control for case in by_family] == ["fixed/a/x", "fixed/b/y"]
    in_full = pending(of, Wanted(1, controls=("fixed/b/y",)), ledger)
    assert [case.control for case in in_full] == ["fixed/b/y"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (Wanted(1, tasks=("u",)), "s has no u; there are t"),
        (Wanted(1, controls=("best",)), "s has no control best; there are host"),
    ],
)
def test_what_there_is_not_is_refused_by_name(ledger: Ledger, wanted: Wanted, message: str) -> None:
    with pytest.raises(BenchmarkError, match=message):
        pending(suite("host"), wanted, ledger)


def test_a_run_that_fails_is_a_row_with_its_error_and_the_others_go_on(ledger: Ledger) -> None:
    run(suite("fails", "host"), ledger)
    assert {each.control: each.error for each in Ledger(ledger.path).rows} == {
        "fails": "ZeroDivisionError: by zero",
        "host": "",
    }


def test_a_suite_stops_where_runs_fail_one_after_another(ledger: Ledger) -> None:
    with pytest.raises(BenchmarkError, match=r"3 runs in a row failed.*--again"):
        run(suite("fails"), ledger, seeds=9)
    assert len(ledger.rows) == 3


def test_what_leans_on_a_run_comes_after_it_and_is_told_of_it(ledger: Ledger) -> None:
    def live(case: Case) -> Sequence[Row]:
        earlier = Row(**case._replace(control="earlier")._asdict(), commit=CODE)
        return earlier, Row(**case._asdict(), commit=CODE, kept=("front/found",))

    rows = run(suite("leans", "decided", "host", live=live), ledger)
    assert [each.control for each in rows] == ["host", "earlier", "decided", "leans"]
    assert rows[-1].kept == ("front/found",)
