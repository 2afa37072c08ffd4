"""Waiting in tests: for an event, with a generous limit and an error that names the event.

Absence is not shown by sleeping: wait for a later sentinel (a record, a report, a process that
ended) and check then that the event did not come before.
"""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

TIMEOUT_S = 120.0
"""Long enough for a busy machine. A test that passes never waits this long."""

POLL_S = 0.02


def wait_until(
    condition: Callable[[], T],
    what: str,
    timeout_s: float = TIMEOUT_S,
    *,
    poll_s: float = POLL_S,
) -> T:
    """Call `condition` until its result is true, and return that result.

    `what` completes the sentence "within 120 s this did not come: ...".

    Raises:
        AssertionError: the result was never true within `timeout_s`; the message has the last one.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() >= deadline:
            raise AssertionError(f"within {timeout_s:g} s this did not come: {what}; {result=}")
        time.sleep(poll_s)
