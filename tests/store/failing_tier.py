"""A tier whose faults a test controls."""

from collections.abc import Iterator

from esper.store import StoreUnavailable
from esper.store.naming import KernelName, name_of
from esper.store.tier import Entry


class FailingTier:
    """A tier of another process that can be down, lose entries, and return wrong bytes."""

    in_process = False

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.address = f"{kind}:test"
        self.down = False
        self.kept: dict[KernelName, bytes] = {}

    def _answer(self) -> None:
        if self.down:
            raise StoreUnavailable(f"{self.kind} is down")

    def write(self, name: KernelName, data: bytes) -> None:
        self._answer()
        self.kept[name] = data

    def read(self, name: KernelName) -> bytes | None:
        self._answer()
        return self.kept.get(name)

    def quarantine(self, name: KernelName, found: bytes) -> None:
        self._answer()
        if self.kept.get(name) == found:
            del self.kept[name]

    def delete(self, name: KernelName, *, stored_before_s: float | None = None) -> bool:
        self._answer()
        return self.kept.pop(name, None) is not None

    def entries(self) -> Iterator[Entry]:
        self._answer()
        return (Entry(name, len(data), 0.0) for name, data in self.kept.items())

    def ping(self) -> None:
        self._answer()

    def close(self) -> None:
        pass

    def intact(self, name: KernelName) -> bool:
        return name_of(name.kernel_id, self.kept.get(name, b"")) == name
