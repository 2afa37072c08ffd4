"""Failures that belong to a record are retried once; those of the infrastructure are raised."""

import asyncio

import pytest

from esper.store import StoreUnavailable
from esper.workers.faust.quarantine import attempt, described


class Work:
    """Fails with the given errors, one per call, and then succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def __call__(self) -> None:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)


@pytest.mark.parametrize(
    ("errors", "calls", "failed"),
    [
        ([], 1, False),
        ([KeyError("a")], 2, False),
        ([KeyError("a"), KeyError("b")], 2, True),
    ],
)
def test_work_is_attempted_twice(errors: list[Exception], calls: int, failed: bool) -> None:
    work = Work(*errors)
    error = asyncio.run(attempt(work))
    assert work.calls == calls
    assert (error is not None) is failed


def test_a_failure_of_the_infrastructure_is_raised_at_once() -> None:
    work = Work(StoreUnavailable("away"))
    with pytest.raises(StoreUnavailable):
        asyncio.run(attempt(work))
    assert work.calls == 1


def test_a_reason_names_the_class_of_the_error() -> None:
    assert described(ValueError("bad size")) == "ValueError: bad size"
