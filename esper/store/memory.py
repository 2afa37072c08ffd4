"""The memory tier: recently used artifacts in this process."""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator

from esper.store.naming import KernelName
from esper.store.tier import Entry


class MemoryTier:
    """Artifacts in a dictionary limited in bytes; the least recently used are dropped.

    `bytes` objects cannot change: what was verified when it was written stays verified.
    """

    kind = "memory"
    in_process = True

    def __init__(self, limit_bytes: int) -> None:
        self.address = f"memory:{limit_bytes >> 20}MiB"
        self._limit_bytes = limit_bytes
        self._size_bytes = 0
        self._kept: OrderedDict[KernelName, tuple[bytes, float]] = OrderedDict()
        self._lock = threading.Lock()

    def write(self, name: KernelName, data: bytes) -> None:
        """Keep an artifact and drop the least recently used beyond the limit."""
        if len(data) > self._limit_bytes:
            return
        with self._lock:
            self._drop(name)
            self._kept[name] = (data, time.time())
            self._size_bytes += len(data)
            while self._size_bytes > self._limit_bytes:
                self._drop(next(iter(self._kept)))

    def read(self, name: KernelName) -> bytes | None:
        """Return an entry and mark it as used."""
        with self._lock:
            found = self._kept.get(name)
            if found is None:
                return None
            self._kept.move_to_end(name)
            return found[0]

    def quarantine(self, name: KernelName, found: bytes) -> None:
        """Drop an entry."""
        self.delete(name)

    def delete(self, name: KernelName, *, stored_before_s: float | None = None) -> bool:
        """Drop an entry."""
        with self._lock:
            found = self._kept.get(name)
            if found is None or (stored_before_s is not None and found[1] >= stored_before_s):
                return False
            self._drop(name)
            return True

    def entries(self) -> Iterator[Entry]:
        """Yield the entries, the least recently used first."""
        with self._lock:
            kept = list(self._kept.items())
        return (Entry(name, len(data), stored_s) for name, (data, stored_s) in kept)

    def ping(self) -> None:
        """Do nothing: memory is there."""

    def close(self) -> None:
        """Drop everything."""
        with self._lock:
            self._kept.clear()
            self._size_bytes = 0

    def _drop(self, name: KernelName) -> None:
        if (found := self._kept.pop(name, None)) is not None:
            self._size_bytes -= len(found[0])
