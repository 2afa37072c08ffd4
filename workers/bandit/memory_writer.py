"""Write the trial results of closed runs to the run memory in Redis; optional for a worker."""

import asyncio
import time
from collections.abc import Iterable
from typing import Final

import structlog

from esper.orchestrator import FoldState, memory_updates
from esper.settings import Settings
from esper.store import RedisRunMemory, StoreError, StoreUnavailable
from esper.workers.faust.metrics import RUNS_REMEMBERED

log = structlog.get_logger()

TIMEOUT_S: Final = 3.0
"""Seconds that all writes after one batch may take together."""

PAUSE_S: Final = 30.0
"""Seconds without a new attempt after Redis did not answer, so that later batches do not wait."""


class MemoryWriter:
    """Adds closed runs to the memory of their task family.

    A run that cannot be added is counted and logged; `esper memory learn` adds it later.
    """

    def __init__(self, settings: Settings) -> None:
        self._memory: RedisRunMemory | None = None
        self._resumes_at = 0.0
        self._unavailable = False
        if settings.redis_url is None:
            self._warn_once("no Redis is configured; set ESPER_REDIS_URL")
            return
        try:
            self._memory = RedisRunMemory(
                settings.redis_url, settings.store_credentials, kept_days=settings.memory_days
            )
        except StoreError as error:
            self._warn_once(str(error))

    async def keep(self, closed: Iterable[FoldState]) -> None:
        """Add the results of closed runs to the memory of their families, each run once.

        Await this after the decisions are confirmed and before the runs' state is written: a run
        that is read and folded again still counts once. Takes at most `TIMEOUT_S`; Redis failures
        are logged, not raised.
        """
        deadline = time.monotonic() + TIMEOUT_S
        for state in closed:
            memory = state.run.run_config.memory
            if memory is not None:
                await self._keep(memory.family, state, deadline)

    async def _keep(self, family: str, state: FoldState, deadline: float) -> None:
        left_s = deadline - time.monotonic()
        if self._memory is None or time.monotonic() < self._resumes_at or left_s <= 0:
            self._miss(state.run_id)
            return
        folding = asyncio.to_thread(
            self._memory.fold,
            family,
            memory_updates(state),
            run_id=state.run_id,
            at_ms=int(time.time() * 1000),
        )
        try:
            counts = await asyncio.wait_for(folding, left_s)
        except (StoreUnavailable, TimeoutError) as error:
            self._resumes_at = time.monotonic() + PAUSE_S
            self._warn_once(str(error) or f"Redis did not answer within {TIMEOUT_S:g} s")
            self._miss(state.run_id)
            return
        except Exception as error:  # noqa: BLE001 - whatever the stored memory causes
            log.warning("run not added to memory", run=state.run_id, why=str(error))
            self._miss(state.run_id)
            return
        if self._unavailable:
            self._unavailable = False
            log.warning("runs are added to memory again")
        RUNS_REMEMBERED.labels("kept" if counts else "known").inc()

    def _miss(self, run_id: str) -> None:
        RUNS_REMEMBERED.labels("missed").inc()
        log.info("run missed", run=run_id, repair=f"esper memory learn {run_id}")

    def _warn_once(self, why: str) -> None:
        if not self._unavailable:
            self._unavailable = True
            log.warning("runs are not added to memory", why=why)
