"""Read the results of earlier runs of a family from Redis while a run opens."""

import threading
from concurrent.futures import Future
from typing import Final

from esper.store import NO_CREDENTIALS, StoreCredentials, StoreError
from esper.topics.models import MemorySnapshot, TrainingRun

ANSWER_TIMEOUT_S: Final = 5.0
"""A run waits this long for each answer of Redis."""

READ_TIMEOUT_S: Final = 20.0
"""A run waits this long in all: a busy machine needs seconds to load the client's library."""

MAX_NOTE_CHARS: Final = 500


class MemoryReader:
    """Reads the memory of a run's family on a thread of its own."""

    def __init__(
        self,
        redis_url: str | None,
        run: TrainingRun,
        credentials: StoreCredentials = NO_CREDENTIALS,
    ) -> None:
        """Start to read the arms of sites with the run's signatures."""
        self._redis_url, self._run, self._credentials = redis_url, run, credentials
        self._found: Future[MemorySnapshot] = Future()
        threading.Thread(target=self._set_result, name="esper-memory-reader", daemon=True).start()

    def snapshot(self) -> MemorySnapshot:
        """Return the memory of the family; without arms and with a note if Redis cannot be read.

        Waits at most `READ_TIMEOUT_S`.
        """
        try:
            return self._found.result(READ_TIMEOUT_S)
        except TimeoutError:
            return self._unread(f"it could not be read from Redis within {READ_TIMEOUT_S:g} s")

    def _set_result(self) -> None:
        try:
            self._found.set_result(self._read())
        except StoreError as error:
            self._found.set_result(self._unread(str(error)))

    def _read(self) -> MemorySnapshot:
        if self._redis_url is None:
            return self._unread("no Redis is named; set ESPER_REDIS_URL, or grow with memory=False")
        # Imported here because it takes .2 s, during which the main thread connects to the broker.
        from esper.bandit import snapshot
        from esper.store import RedisRunMemory

        memory = RedisRunMemory(self._redis_url, self._credentials, timeout_s=ANSWER_TIMEOUT_S)
        try:
            known_arms = memory.read(self._run.task)
        finally:
            memory.close()
        signatures = {signature.text for signature in self._run.sites.values()}
        return MemorySnapshot(family=self._run.task, arms=snapshot(known_arms, signatures))

    def _unread(self, reason: str) -> MemorySnapshot:
        return MemorySnapshot(family=self._run.task, note=reason[:MAX_NOTE_CHARS])
