"""Run the missing cases of a suite, two processes at most; every run leaves a row."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import partial
from typing import Final, NamedTuple

from benchmarks.result import BenchmarkError
from experiments.growth.code_version import code
from experiments.growth.rows import Case, Ledger, RunRow
from experiments.growth.suite import Suite

PROCESSES: Final = 2
FAILURES_IN_A_ROW: Final = 3
"""Failures after which a suite stops: their common cause is outside the runs."""

OnRow = Callable[[RunRow], None]


class CaseFilter(NamedTuple):
    """The cases to run: `seeds` seeds of the named tasks and controls, of all by default.

    `again` includes cases whose row is of other code, or failed.
    """

    seeds: int
    tasks: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    again: bool = False


def pending_cases(suite: Suite, case_filter: CaseFilter, ledger: Ledger) -> list[Case]:
    """Return the cases to run, in order.

    A control is named in full, or by the part before its first `/`.

    Raises:
        BenchmarkError: the suite has no such task, or no such control.
    """
    unknown = sorted(set(case_filter.tasks) - set(suite.tasks))
    if unknown:
        raise BenchmarkError(
            f"{suite.name} has no {', '.join(unknown)}; choose from: {', '.join(suite.tasks)}"
        )
    tasks = case_filter.tasks or suite.tasks
    cases = [case for task in tasks for case in suite.cases(task, case_filter.seeds)]
    named = {family(case.control) for case in cases} | {case.control for case in cases}
    odd = sorted(set(case_filter.controls) - named)
    if odd:
        raise BenchmarkError(
            f"{suite.name} has no control {', '.join(odd)}; choose from: "
            f"{', '.join(sorted({family(case.control) for case in cases}))}"
        )
    chosen = set(case_filter.controls)
    return [
        case
        for case in cases
        if not chosen or chosen & {case.control, family(case.control)}
        if _is_due(ledger.get(case), case_filter.again)
    ]


def family(control: str) -> str:
    """Return the family of a control: `fixed` for `fixed/front/image-conv`."""
    return control.partition("/")[0]


def run_cases(suite: Suite, cases: Sequence[Case], ledger: Ledger, on_row: OnRow) -> None:
    """Run cases and save each row when its run ends; cases with a dependency run last.

    Raises:
        BenchmarkError: several runs in a row failed.
    """
    dependent = [case for case in cases if suite.depends_on(case) is not None]
    independent = [case for case in cases if suite.depends_on(case) is None]
    live_cases = [case for case in independent if suite.is_live(case)]
    offline = [case for case in independent if not suite.is_live(case)]
    recorder = _Recorder(ledger, on_row)
    recorder.add(_in_processes(suite, offline, ledger))
    if live_cases:
        with suite.live() as live:
            for case in live_cases:
                recorder.add(_attempted(case, live))
    recorder.add(_in_processes(suite, dependent, ledger))


class _Recorder:
    """Saves and reports rows; stops the suite after several failures in a row."""

    def __init__(self, ledger: Ledger, on_row: OnRow) -> None:
        self._ledger, self._on_row = ledger, on_row
        self._failures = 0

    def add(self, rows: Iterable[RunRow]) -> None:
        for row in rows:
            self._ledger.keep(row)
            self._on_row(row)
            self._failures = self._failures + 1 if row.error else 0
            if self._failures >= FAILURES_IN_A_ROW:
                raise BenchmarkError(
                    f"{self._failures} runs in a row failed, the last with: {row.error}; "
                    "their rows are saved; fix the cause and repeat them with --again"
                )


def _is_due(row: RunRow | None, again: bool) -> bool:
    if row is None:
        return True
    return again and (bool(row.error) or row.commit != code())


def _in_processes(suite: Suite, cases: Sequence[Case], ledger: Ledger) -> Iterator[RunRow]:
    """Yield the rows of cases as they end; each process runs one case at a time."""
    if not cases:
        return
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(PROCESSES, len(cases)), spawning) as pool:
        running: dict[Future[RunRow], Case] = {}
        for case in cases:
            dependency = suite.depends_on(case)
            row = None if dependency is None else ledger.get(dependency)
            running[pool.submit(suite.run, case, row)] = case
        try:
            while running:
                for ended in wait(running, return_when=FIRST_COMPLETED).done:
                    case = running.pop(ended)
                    yield from _attempted(case, partial(_result, ended))
        finally:
            pool.shutdown(cancel_futures=True)


def _result(ended: Future[RunRow], _: Case) -> Sequence[RunRow]:
    return (ended.result(),)


def _attempted(case: Case, attempt: Callable[[Case], Sequence[RunRow]]) -> Sequence[RunRow]:
    """Return the rows of a run; for a failed run, a row with its error."""
    try:
        return attempt(case)
    except Exception as error:  # noqa: BLE001 - every failure becomes a row
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return (RunRow(**case._asdict(), commit=code(), error=text[:300]),)
