"""The interface of a suite to the runner."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from experiments.growth.rows import Case, RunRow

Live = Callable[[Case], Sequence[RunRow]]
"""Runs a case on a running stack; the last row is the case's, earlier ones its dependencies'."""


@dataclass(frozen=True, slots=True)
class Suite:
    """Training runs of several controls on several tasks; equal seeds are pairs.

    `run` trains a case without services, in any process; its second argument is the row of the
    case that `depends_on` returns. `live` starts the services for the cases that `is_live` selects.
    """

    name: str
    tasks: tuple[str, ...]
    cases: Callable[[str, int], Iterator[Case]]
    run: Callable[[Case, RunRow | None], RunRow]
    is_live: Callable[[Case], bool]
    depends_on: Callable[[Case], Case | None]
    live: Callable[[], AbstractContextManager[Live]]
