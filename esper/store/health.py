"""Health of a tier: whether it answers, when it is tried again, and what it has served."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal, TypeVar

from esper.store.errors import StoreForbidden, StoreUnavailable
from esper.store.tier import Tier

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
"""A tier that failed is left alone for a pause, which doubles with each further failure."""

log = logging.getLogger("esper.store")

T = TypeVar("T")

CountName = Literal["hits", "misses", "writes", "promotions", "failures", "quarantined"]


class StoreState(StrEnum):
    """Health of the store: all tiers answer, some do, or none that outlives the process does."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class TierCounts:
    """Reads and writes of one tier since the store was opened."""

    hits: int = 0
    misses: int = 0
    writes: int = 0
    promotions: int = 0
    failures: int = 0
    quarantined: int = 0


@dataclass(frozen=True, slots=True)
class TierHealth:
    """A tier's health; `error` is its last failure while it is down."""

    tier: str
    address: str
    durable: bool
    in_process: bool
    up: bool
    error: str | None = None
    counts: TierCounts = field(default_factory=TierCounts)


class MonitoredTier:
    """A tier whose calls are counted, and which is left alone for a while after a failure."""

    def __init__(
        self,
        tier: Tier,
        label: str,
        *,
        durable: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tier = tier
        self.label = label
        self.durable = durable
        self._clock = clock
        self._counts = Counter[str]()
        self._error: str | None = None
        self._pause_s = 0.0
        self._retry_at = 0.0
        self._forbidden: str | None = None
        self._lock = threading.Lock()

    @property
    def is_up(self) -> bool:
        """Whether the last call was answered."""
        return self._error is None

    @property
    def is_due(self) -> bool:
        """Whether the tier is up, or its pause is over."""
        return self._error is None or self._clock() >= self._retry_at

    @property
    def may_write(self) -> bool:
        """False once a cache has forbidden this user to write."""
        return self._forbidden is None

    @property
    def error(self) -> str:
        """The last failure; empty if the tier is up."""
        return self._error or ""

    def call(self, operation: Callable[[Tier], T]) -> T:
        """Call the tier and record whether it answered.

        Raises:
            StoreUnavailable: it did not.
        """
        try:
            result = operation(self.tier)
        except StoreUnavailable as error:
            self._failed(str(error))
            raise
        if self._error is not None:
            self._recovered()
        return result

    def write(self, operation: Callable[[Tier], T]) -> T:
        """Call the tier to change it; a cache that forbids this stays up, for reading.

        Raises:
            StoreForbidden: this user may not change the cache; it is not asked again.
            StoreUnavailable: the tier did not answer.
        """
        if self._forbidden is not None:
            raise StoreForbidden(self._forbidden)

        def changed(tier: Tier) -> T | StoreForbidden:
            try:
                return operation(tier)
            except StoreForbidden as error:
                if self.durable:
                    raise
                return error

        result = self.call(changed)
        if isinstance(result, StoreForbidden):
            self._forbidden = str(result)
            raise result
        return result

    def count(self, result: CountName) -> None:
        """Add one to a count."""
        with self._lock:
            self._counts[result] += 1

    def health(self) -> TierHealth:
        """Return the health as of the last call."""
        error = self._error
        return TierHealth(
            tier=self.label,
            address=self.tier.address,
            durable=self.durable,
            in_process=self.tier.in_process,
            up=error is None,
            error=error,
            counts=TierCounts(**self._counts),
        )

    def _failed(self, error: str) -> None:
        with self._lock:
            first = self._error is None
            self._error = error
            self._pause_s = FIRST_PAUSE_S if first else min(2 * self._pause_s, LONGEST_PAUSE_S)
            self._retry_at = self._clock() + self._pause_s
        self.count("failures")
        if first:
            log.warning("kernel store tier %s is down: %s", self.label, error)

    def _recovered(self) -> None:
        with self._lock:
            was_down, self._error = self._error is not None, None
        if was_down:
            log.warning("kernel store tier %s answers again", self.label)
