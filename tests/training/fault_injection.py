"""Failures injected into a plan: at any line that is executed while the plan is applied."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

import esper

PLAN_FILES: Final = tuple(
    str(Path(esper.__file__).parent / name)
    for name in (
        "training/alpha_ramps.py",
        "training/optimizer.py",
        "training/plan_applier.py",
        "training/seed_parameters.py",
        "training/slot_table.py",
        "training/transaction.py",
        "seed/bank.py",
        "seed/merging.py",
        "seed/site.py",
        "seed/slot.py",
        "seed/synchronizer.py",
    )
)
"""The files that a plan executes."""

NOT_COUNTED: Final = ("apply", "only_own", "commit")
"""Functions of these files in which no failure is injected."""


class Injected(RuntimeError):
    """A failure that a test injected."""


class Faults:
    """The number of lines executed so far, and whether the failure was raised."""

    lines = 0
    raised = False


@contextmanager
def failing_at(line: int | None) -> Iterator[Faults]:
    """Raise Injected before the executed line of this index; None: never.

    Lines are counted as they are executed. Lines of `PlanApplier.apply` itself and of `commit` do
    not count.
    """
    faults = Faults()
    traced: dict[CodeType, bool] = {}

    def trace_call(frame: FrameType, _event: str, _arg: Any) -> Any:
        code = frame.f_code
        if code not in traced:
            traced[code] = code.co_filename in PLAN_FILES and code.co_name not in NOT_COUNTED
        return trace_line if traced[code] else None

    def trace_line(frame: FrameType, event: str, _arg: Any) -> Any:
        if event == "line":
            if faults.lines == line:
                faults.raised = True
                sys.settrace(None)  # the rollback need not be traced
                name = Path(frame.f_code.co_filename).name
                raise Injected(f"line {frame.f_lineno} of {name}")
            faults.lines += 1
        return trace_line

    before = sys.gettrace()
    sys.settrace(trace_call)
    try:
        yield faults
    finally:
        sys.settrace(before)
