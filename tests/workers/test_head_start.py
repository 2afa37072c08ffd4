"""A head start changes when a kernel is built, and never what is."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from esper.blueprint import RejectionCode, request_for, shipped_named
from esper.compiler import Rejected
from esper.compiler.outcome import Outcome
from topics.models import KernelRequested, SiteKind, SiteSignature
from workers.head_start import MOST_BEGUN, HeadStart


def request(width: int) -> KernelRequested:
    site = SiteSignature(kind=SiteKind.VECTOR, x=(width,), h=(width,))
    return request_for(shipped_named("low-rank-skip"), site)


class Builds:
    """A stand-in for the farm that counts, and takes a turn of the loop over each."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []

    def __call__(self, request: KernelRequested) -> Coroutine[Any, Any, Outcome]:
        self.begun.append(request.kernel_id)
        return self._build(request)

    async def _build(self, request: KernelRequested) -> Outcome:
        await asyncio.sleep(0)
        self.ended.append(request.kernel_id)
        return Rejected(RejectionCode.CRASHED, request.kernel_id)


def test_what_was_begun_is_built_once_and_taken_up_by_its_request() -> None:
    async def scenario() -> None:
        builds = Builds()
        ahead = HeadStart(builds, lambda request: True)
        ahead.begin(request(8))
        ahead.begin(request(8))
        outcome = await ahead.outcome(request(8))
        assert isinstance(outcome, Rejected)
        assert outcome.reason == request(8).kernel_id
        assert builds.begun == [request(8).kernel_id]
        await ahead.outcome(request(8))
        assert len(builds.begun) == 2, "a request that comes again is worked on again"

    asyncio.run(scenario())


def test_what_is_not_worthwhile_waits_for_its_request() -> None:
    async def scenario() -> None:
        builds = Builds()
        ahead = HeadStart(builds, lambda request: False)
        ahead.begin(request(8))
        assert builds.begun == []
        await ahead.outcome(request(8))
        assert builds.ended == [request(8).kernel_id]

    asyncio.run(scenario())


def test_a_request_with_the_id_of_another_is_built_as_it_stands() -> None:
    async def scenario() -> None:
        builds = Builds()
        ahead = HeadStart(builds, lambda request: True)
        ahead.begin(request(8))
        forged = request(9).model_copy(update={"kernel_id": request(8).kernel_id})
        await ahead.outcome(forged)
        assert len(builds.begun) == 2

    asyncio.run(scenario())


def test_what_no_request_takes_up_does_not_pile_up() -> None:
    async def scenario() -> None:
        builds = Builds()
        ahead = HeadStart(builds, lambda request: True)
        for width in range(MOST_BEGUN + 1):
            ahead.begin(request(8 + width))
        await asyncio.sleep(0.01)
        assert request(8).kernel_id not in builds.ended
        assert len(builds.ended) == MOST_BEGUN

    asyncio.run(scenario())
