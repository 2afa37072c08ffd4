"""What closed runs found, kept for later ones: in Redis, without which all else goes on."""

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

LIMIT_S: Final = 3.0
"""How long the runs that closed in one batch may hold up the next, all together."""

PAUSE_S: Final = 30.0
"""How long Redis is left alone after it did not answer: no batch shall wait for it in vain."""


class MemoryWriter:
    """Keeps what closed runs found; a run that it cannot keep is counted, named in the log, and
    left to `esper memory learn`."""

    def __init__(self, settings: Settings) -> None:
        self._memory: RedisRunMemory | None = None
        self._resumes_at = 0.0
        self._away = False
        if settings.redis_url is None:
            self._say_once("no Redis is named; set ESPER_REDIS_URL")
            return
        try:
            self._memory = RedisRunMemory(settings.redis_url, kept_days=settings.memory_days)
        except StoreError as error:
            self._say_once(str(error))

    async def keep(self, closed: Iterable[FoldState]) -> None:
        """Add what closed runs found to the memory of their families, each run once.

        To be awaited after their decisions are confirmed and before their state is written: a run
        that is read again is folded again, and counts once. It takes `LIMIT_S` at most, and fails
        for nothing that Redis does.
        """
        deadline = time.monotonic() + LIMIT_S
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
            self._say_once(str(error) or f"Redis took more than {LIMIT_S:g} s")
            self._miss(state.run_id)
            return
        except StoreError as error:
            log.warning("a run is not remembered", run=state.run_id, why=str(error))
            self._miss(state.run_id)
            return
        if self._away:
            self._away = False
            log.warning("runs are remembered again")
        RUNS_REMEMBERED.labels("kept" if counts else "known").inc()

    def _miss(self, run_id: str) -> None:
        RUNS_REMEMBERED.labels("missed").inc()
        log.info("missed", run=run_id, repair=f"esper memory learn {run_id}")

    def _say_once(self, why: str) -> None:
        if not self._away:
            self._away = True
            log.warning("runs are not remembered", why=why)
