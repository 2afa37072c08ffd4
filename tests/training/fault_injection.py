"""Failures put into the middle of a plan: at any line that is run while it is applied."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

import esper

CHANGES: Final = tuple(
    str(Path(esper.__file__).parent / name)
    for name in (
        "training/seed_manager.py",
        "training/optimizer.py",
        "seed/bank.py",
        "seed/merging.py",
        "seed/site.py",
        "seed/slot.py",
        "seed/synchronizer.py",
    )
)
"""The files of what a plan changes."""


class Injected(RuntimeError):
    """A failure that a test put there."""


class Faults:
    """How many lines were run, and whether the failure came."""

    lines = 0
    raised = False


@contextmanager
def failing_at(line: int | None) -> Iterator[Faults]:
    """Raise Injected before the line of this number, counted as they are run; None: never.

    Lines of `SeedManager.apply` itself do not count: what it calls does the work.
    """
    faults = Faults()

    def look(frame: FrameType, event: str, _: Any) -> Any:
        code = frame.f_code
        if code.co_filename not in CHANGES or code.co_name in ("apply", "_alone"):
            return None
        if event == "line":
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
