"""What a suite of experiments is to the runner."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from benchmarks.growth.rows import Case, Row

Live = Callable[[Case], Sequence[Row]]
"""Runs a case that needs services; the last row is the case's, others are of runs it leans on."""


@dataclass(frozen=True, slots=True)
class Suite:
    """Runs of several controls on several tasks, seeds paired.

    `run` makes a case that needs no services, in any process; it is told the row that the case
    `leans_on`, if it does on one. `live` brings up what the cases need that `is_live` names.
    """

    name: str
    tasks: tuple[str, ...]
    cases: Callable[[str, int], Iterator[Case]]
    run: Callable[[Case, Row | None], Row]
    is_live: Callable[[Case], bool]
    leans_on: Callable[[Case], Case | None]
    live: Callable[[], AbstractContextManager[Live]]
    page: Any = None
