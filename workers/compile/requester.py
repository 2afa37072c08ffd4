"""The requester: put planned kernels on `kernel-requested`, a few at a time and in a fair order.

The topic itself is a queue in order of arrival: whatever is on it delays all that comes later. So
the plan is kept in memory, and a request is sent when the answer to an earlier one has arrived.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import takewhile
from typing import Final

import structlog

from esper.topics.bus import Producer
from esper.topics.catalog import BLUEPRINT_SUBMITTED, KERNEL_READY, KERNEL_REQUESTED
from esper.topics.codec import child_traceparent
from esper.topics.models import KernelRequested
from esper.workers.compile.answers import Answers
from esper.workers.compile.plan import OpenRun, Plan, Wanted
from esper.workers.compile.request_queue import RequestQueue
from esper.workers.faust.app import is_ready
from esper.workers.faust.guards import GuardedApp
from esper.workers.faust.metrics import KERNELS_PLANNED, KERNELS_REQUESTED, OPEN_RUNS, RUNS_EXPIRED

log = structlog.get_logger()

HOUSEKEEPING_S: Final = 1.0
"""Longest pause between two looks at expired runs, lost requests and the group's generation."""

LOST_AFTER_S: Final = 600.0
"""A request without an answer for so long no longer holds back others."""

ANSWERED_S: Final = 600.0
"""A live run that opens does not repeat an answer for so long; then the store is looked at again.

Otherwise each of a thousand runs would have all kernels of its sites announced to all the others.
"""

BREATHE_EVERY: Final = 64
"""Kernels after which the restoring of a plan lets other tasks of the event loop run."""


class Requester:
    """The plan of this worker's generation, its fair queue, and the requests without an answer."""

    def __init__(
        self,
        app: GuardedApp,
        producer: Producer,
        answers: Answers,
        *,
        in_flight: int,
        run_expiry_s: float,
    ) -> None:
        """`in_flight` limits the requests without an answer."""
        self.restore: Callable[[], Plan] = Plan
        self.expired: set[str] = set()
        """Runs that have expired and whose rows are still in the table."""
        self._app = app
        self._producer = producer
        self._answers = answers
        self._limit = in_flight
        self._run_expiry_s = run_expiry_s
        self._plan = Plan()
        self._generation: int | None = None
        self._lock = asyncio.Lock()
        self._queue: RequestQueue[Wanted] = RequestQueue()
        self._traces: dict[str, str] = {}
        self._in_flight: dict[str, float] = {}
        self._answered_s: dict[str, float] = {}
        self._to_withdraw: set[str] = set()
        self._wake = asyncio.Event()
        answers.on_answer = self._on_answer
        app.task(self._send_forever)

    @asynccontextmanager
    async def planning(self) -> AsyncIterator[Plan]:
        """Give the plan to one task at a time; it is restored first after a rebalance."""
        async with self._lock:
            if self._generation != self._app.consumer_generation_id:
                await self._restore_plan()
            yield self._plan

    def add(self, wanted: Iterable[Wanted], traces: Mapping[str, str | None] | None = None) -> None:
        """Queue kernels of the plan; `traces` are `traceparent`s by blueprint id."""
        self._traces |= {name: trace for name, trace in (traces or {}).items() if trace}
        now_ms = time.time() * 1000
        for one in wanted:
            self._queue.add(one, self._plan.urgency(one, now_ms), self._plan.publisher(one))
        KERNELS_PLANNED.set(len(self._queue))
        self._wake.set()

    def unanswered(self, opened: OpenRun) -> Iterator[Wanted]:
        """Yield the kernels that a run wants, without those that were answered a short time ago.

        A live run finds these on the topics; a lockstep run waits for answers of its own.
        """
        for wanted in self._plan.wanted_by(opened):
            request = self._plan.request(wanted)
            if request is None:
                continue
            recent = request.kernel_id in self._answered_s and self._answers.has(request.kernel_id)
            if opened.run.lockstep or not recent:
                yield wanted

    async def withdraw(self, kernel_ids: Iterable[str]) -> None:
        """Remove announcements from `kernel-ready`; return when the broker has confirmed it."""
        announced = [ready for one in kernel_ids if (ready := self._answers.ready(one)) is not None]
        await asyncio.gather(*(self._producer.withdraw(KERNEL_READY, one) for one in announced))
        for ready in announced:
            self._answers.withdrawn(ready.kernel_id)

    def _on_answer(self, kernel_id: str) -> None:
        if self._in_flight.pop(kernel_id, None) is not None:
            self._answered_s.pop(kernel_id, None)
            self._answered_s[kernel_id] = time.monotonic()
            self._wake.set()
        if self._answers.blueprint_of(kernel_id) in self._plan.withdrawn:
            self._to_withdraw.add(kernel_id)
            self._wake.set()

    async def _restore_plan(self) -> None:
        generation = self._app.consumer_generation_id
        await self._answers.all_caught_up()
        self._plan = self.restore()
        self._generation = generation
        self._queue.clear()
        self._to_withdraw.update(self._answers.ready_of(self._plan.withdrawn))
        self._expire_runs()
        now_ms = time.time() * 1000
        for number, opened in enumerate(list(self._plan.runs.values())):
            for index, wanted in enumerate(self._plan.wanted_by(opened)):
                if (number + index) % BREATHE_EVERY == 0:
                    await asyncio.sleep(0)
                request = self._plan.request(wanted)
                # A lockstep run may wait for its own answer to a kernel that was announced before.
                if request and (opened.run.lockstep or not self._answers.has(request.kernel_id)):
                    urgency = opened.urgency(now_ms)
                    self._queue.add(wanted, urgency, self._plan.publisher(wanted))

    async def _send_forever(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), HOUSEKEEPING_S)
            self._wake.clear()
            try:
                await self._send()
            except Exception:
                log.exception("kernels could not be requested; trying again")

    async def _send(self) -> None:
        if not is_ready(self._app):
            return  # A rebalance: this worker may keep the plan.
        if not self._owns_the_plan():
            self._plan, self._generation = Plan(), None
            self._queue.clear()
            self._in_flight.clear()
            self._answered_s.clear()
            self._to_withdraw.clear()
            KERNELS_PLANNED.set(0)
            return
        async with self.planning() as plan:
            self._expire_runs()
            self._forget_lost()
            requests = self._next(plan)
            late, self._to_withdraw = self._to_withdraw, set()
        await asyncio.gather(*(self._request(request) for request in requests))
        await self.withdraw(
            one for one in late if self._answers.blueprint_of(one) in plan.withdrawn
        )
        KERNELS_PLANNED.set(len(self._queue))

    def _owns_the_plan(self) -> bool:
        return any(at.topic == BLUEPRINT_SUBMITTED.name for at in self._app.consumer.assignment())

    def _next(self, plan: Plan) -> list[KernelRequested]:
        """Return the requests that may be sent now; kernels that no run wants are dropped."""
        requests = []
        while len(self._in_flight) < self._limit:
            wanted = self._queue.pop()
            if wanted is None:
                self._traces.clear()
                break
            request = plan.request(wanted)
            if request is not None and request.kernel_id not in self._in_flight:
                self._in_flight[request.kernel_id] = time.monotonic()
                requests.append(request)
        return requests

    async def _request(self, request: KernelRequested) -> None:
        trace = child_traceparent(self._traces.get(request.blueprint.blueprint_id))
        try:
            await self._producer.publish(KERNEL_REQUESTED, request, traceparent=trace)
        except Exception:
            self._in_flight.pop(request.kernel_id, None)
            log.exception("a kernel could not be requested", kernel=request.kernel_id)
            return
        KERNELS_REQUESTED.inc()

    def _expire_runs(self) -> None:
        before_ms = (time.time() - self._run_expiry_s) * 1000
        for run_id in self._plan.expired(before_ms):
            self._plan.close(run_id)
            self.expired.add(run_id)
            RUNS_EXPIRED.inc()
            log.info("run expired: it was not closed and reports no more", run=run_id)
        OPEN_RUNS.set(len(self._plan.runs))

    def _forget_lost(self) -> None:
        now_s = time.monotonic()
        lost = [one for one, sent_s in self._in_flight.items() if now_s - sent_s > LOST_AFTER_S]
        for kernel_id in lost:
            del self._in_flight[kernel_id]
            log.warning("a request has no answer", kernel=kernel_id, after_s=LOST_AFTER_S)
        # In order of time: an answer that comes again moves to the end.
        old = takewhile(lambda one: now_s - one[1] > ANSWERED_S, self._answered_s.items())
        for kernel_id, _ in list(old):
            del self._answered_s[kernel_id]
