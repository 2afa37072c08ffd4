"""The fair queue of kernels to request: urgent ones first, publishers in turn."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T", bound=Hashable)


class _Position(NamedTuple):
    urgency: int
    publisher: str


class RequestQueue(Generic[T]):
    """Items by urgency (0 is the most urgent), then round robin over publishers, then in order."""

    def __init__(self) -> None:
        self._levels: dict[int, OrderedDict[str, OrderedDict[T, None]]] = {}
        self._positions: dict[T, _Position] = {}

    def __len__(self) -> int:
        return len(self._positions)

    def add(self, item: T, urgency: int, publisher: str) -> None:
        """Add an item; one that is queued already only becomes more urgent."""
        queued = self._positions.get(item)
        if queued is not None:
            if queued.urgency <= urgency:
                return
            self._remove(item, queued)
        self._positions[item] = _Position(urgency, publisher)
        level = self._levels.setdefault(urgency, OrderedDict())
        level.setdefault(publisher, OrderedDict())[item] = None

    def pop(self) -> T | None:
        """Remove and return the next item; the turn passes to the next publisher."""
        if not self._positions:
            return None
        level = self._levels[min(self._levels)]
        publisher = next(iter(level))
        item = next(iter(level[publisher]))
        level.move_to_end(publisher)
        self._remove(item, self._positions.pop(item))
        return item

    def clear(self) -> None:
        """Remove all items."""
        self._levels.clear()
        self._positions.clear()

    def _remove(self, item: T, position: _Position) -> None:
        level = self._levels[position.urgency]
        queued = level[position.publisher]
        del queued[item]
        if not queued:
            del level[position.publisher]
        if not level:
            del self._levels[position.urgency]
