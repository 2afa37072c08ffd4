"""What earlier runs of a family found, read while a run opens; and why not, where it cannot be."""

import threading
from concurrent.futures import Future
from typing import Final

from esper.store import StoreError
from esper.topics.models import MemorySnapshot, TrainingRun

RECALL_TIMEOUT_S: Final = 1.0

MAX_NOTE: Final = 500


class MemoryReader:
    """A look at the memory of a run's family, on a thread of its own."""

    def __init__(self, redis_url: str | None, run: TrainingRun) -> None:
        """Begin to read what is known of sites like the run's."""
        self._redis_url, self._run = redis_url, run
        self._found: Future[MemorySnapshot] = Future()
        threading.Thread(target=self._look, name="esper-recall", daemon=True).start()

    def snapshot(self) -> MemorySnapshot:
        """Return what was found; without arms, and with a note, where nothing could be read.

        It waits `RECALL_TIMEOUT_S` at most.
        """
        try:
            return self._found.result(RECALL_TIMEOUT_S)
        except TimeoutError:
            return self._unread(f"it could not be read from Redis within {RECALL_TIMEOUT_S:g} s")

    def _look(self) -> None:
        try:
            self._found.set_result(self._read())
        except StoreError as error:
            self._found.set_result(self._unread(str(error)))

    def _read(self) -> MemorySnapshot:
        if self._redis_url is None:
            return self._unread("no Redis is named; set ESPER_REDIS_URL, or grow with memory=False")
        # Here, not at the top: it takes .2 s to import, in which the broker can be reached.
        from esper.bandit import snapshot
        from esper.store import RedisRunMemory

        memory = RedisRunMemory(self._redis_url)
        try:
            known = memory.read(self._run.task)
        finally:
            memory.close()
        signatures = {signature.text for signature in self._run.sites.values()}
        return MemorySnapshot(family=self._run.task, arms=snapshot(known, signatures))

    def _unread(self, why: str) -> MemorySnapshot:
        return MemorySnapshot(family=self._run.task, note=why[:MAX_NOTE])
