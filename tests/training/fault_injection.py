"""Failures injected into a plan: at any line that is executed while the plan is applied."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
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

VISITS: Final = 2
"""Visits of one line by one call path in one operation at which a failure can be injected.

Later visits are further turns of a loop, which leave the same kinds of state behind.
"""


class Injected(RuntimeError):
    """A failure that a test injected."""


class Faults:
    """The number of lines executed so far, and whether the failure was raised."""

    lines = 0
    raised = False


@contextmanager
def failing_at(line: int | None) -> Iterator[Faults]:
    """Raise Injected before the executed line of this index; None: never.

    Lines are counted as they are executed, the first `VISITS` visits per operation and call path.
    Lines of `PlanApplier.apply` itself and of `commit` do not count.
    """
    faults = Faults()
    operations = 0
    visits: Counter[tuple[object, ...]] = Counter()

    def look(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal operations
        code = frame.f_code
        if code.co_filename not in PLAN_FILES or code.co_name in ("apply", "only_own", "commit"):
            return None
        operations += event == "call" and code.co_name == "_apply_one"
        if event == "line":
            path = (operations, *_call_path(frame))
            visits[path] += 1
            if visits[path] > VISITS:
                return look
            if faults.lines == line:
                faults.raised = True
                name = Path(code.co_filename).name
                raise Injected(f"line {frame.f_lineno} of {name}")
            faults.lines += 1
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        yield faults
    finally:
        sys.settrace(before)


def _call_path(frame: FrameType | None) -> Iterator[object]:
    """Yield code and line of each frame up to `apply`."""
    while frame is not None and frame.f_code.co_name != "apply":
        yield frame.f_code
        yield frame.f_lineno
        frame = frame.f_back
