"""Running what has no row yet, at most two processes at a time; every run leaves a row."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import partial
from typing import Final, NamedTuple

from benchmarks.growth.origin import code
from benchmarks.growth.rows import Case, Ledger, Row
from benchmarks.growth.suite import Suite
from benchmarks.result import BenchmarkError

PROCESSES: Final = 2
FAILURES_IN_A_ROW: Final = 3
"""After which a suite stops: what they have in common is not in the runs."""

OnRow = Callable[[Row], None]


class Wanted(NamedTuple):
    """Which runs: so many seeds of the tasks and controls named, all unless named.

    With `again` also those whose row is of other code, or failed.
    """

    seeds: int
    tasks: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    again: bool = False


def pending(suite: Suite, wanted: Wanted, ledger: Ledger) -> list[Case]:
    """Return the cases to run, in order.

    A control is named in full, or by what stands before its first `/`.

    Raises:
        BenchmarkError: the suite has no such task, or no such control.
    """
    unknown = sorted(set(wanted.tasks) - set(suite.tasks))
    if unknown:
        raise BenchmarkError(
            f"{suite.name} has no {', '.join(unknown)}; there are {', '.join(suite.tasks)}"
        )
    tasks = wanted.tasks or suite.tasks
    cases = [case for task in tasks for case in suite.cases(task, wanted.seeds)]
    named = {family(case.control) for case in cases} | {case.control for case in cases}
    odd = sorted(set(wanted.controls) - named)
    if odd:
        raise BenchmarkError(
            f"{suite.name} has no control {', '.join(odd)}; there are "
            f"{', '.join(sorted({family(case.control) for case in cases}))}"
        )
    chosen = set(wanted.controls)
    return [
        case
        for case in cases
        if not chosen or chosen & {case.control, family(case.control)}
        if _is_due(ledger.get(case), wanted.again)
    ]


def family(control: str) -> str:
    """Return what a control is called among its like: of `fixed/front/image-conv`, `fixed`."""
    return control.partition("/")[0]


def carry_out(suite: Suite, cases: Sequence[Case], ledger: Ledger, on_row: OnRow) -> None:
    """Run cases, and keep the row of each as it ends; those that lean on others come last.

    Raises:
        BenchmarkError: several in a row failed.
    """
    leaning = [case for case in cases if suite.leans_on(case) is not None]
    alone = [case for case in cases if suite.leans_on(case) is None]
    decided = [case for case in alone if suite.is_live(case)]
    watch = _Watch(ledger, on_row)
    watch.all(_by_timetable(suite, [case for case in alone if not suite.is_live(case)], ledger))
    if decided:
        with suite.live() as live:
            for case in decided:
                watch.all(_attempted(case, live))
    watch.all(_by_timetable(suite, leaning, ledger))


class _Watch:
    """Keeps rows, tells of them, and stops where runs fail one after another."""

    def __init__(self, ledger: Ledger, on_row: OnRow) -> None:
        self._ledger, self._on_row = ledger, on_row
        self._failures = 0

    def all(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self._ledger.keep(row)
            self._on_row(row)
            self._failures = self._failures + 1 if row.error else 0
            if self._failures >= FAILURES_IN_A_ROW:
                raise BenchmarkError(
                    f"{self._failures} runs in a row failed, the last with: {row.error}; "
                    "their rows are kept; run them again with --again"
                )


def _is_due(row: Row | None, again: bool) -> bool:
    if row is None:
        return True
    return again and (bool(row.error) or row.commit != code())


def _by_timetable(suite: Suite, cases: Sequence[Case], ledger: Ledger) -> Iterator[Row]:
    """Yield the rows of cases, as they end, from processes that each run one at a time."""
    if not cases:
        return
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(PROCESSES, len(cases)), spawning) as pool:
        running: dict[Future[Row], Case] = {}
        for case in cases:
            leant_on = suite.leans_on(case)
            before = None if leant_on is None else ledger.get(leant_on)
            running[pool.submit(suite.run, case, before)] = case
        try:
            while running:
                for ended in wait(running, return_when=FIRST_COMPLETED).done:
                    case = running.pop(ended)
                    yield from _attempted(case, partial(_result, ended))
        finally:
            pool.shutdown(cancel_futures=True)


def _result(ended: Future[Row], _: Case) -> Sequence[Row]:
    return (ended.result(),)


def _attempted(case: Case, attempt: Callable[[Case], Sequence[Row]]) -> Sequence[Row]:
    """Return the rows of a run; of one that failed, the row that says so."""
    try:
        return attempt(case)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the row's to tell
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return (Row(**case._asdict(), commit=code(), error=text[:300]),)
