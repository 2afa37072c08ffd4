"""`KernelStore`: a list of tiers, the fastest first and the durable one last."""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from esper.store.errors import KernelAltered, KernelMissing, StoreUnavailable
from esper.store.health import MonitoredTier, StoreState, TierHealth
from esper.store.naming import KernelName, name_at, name_of
from esper.store.single_flight import SingleFlight
from esper.store.tier import Tier
from esper.topics.codec import sha256_of

MAX_MISSED: Final = 10_000
"""Kernels that a cache missed while it was down; beyond this the oldest are forgotten."""

log = logging.getLogger("esper.store")


@dataclass(frozen=True, slots=True)
class StoredKernel:
    """Where `put` stored an artifact.

    `durable` is whether the last tier has it; `failed` has the reason for each tier that does not.
    """

    location: str
    durable: bool
    failed: dict[str, str]

    @property
    def degraded(self) -> bool:
        """Whether a tier failed, the durable one or a cache."""
        return bool(self.failed)


class KernelStore:
    """Kernels by location, in tiers; methods may block and are thread-safe.

    A location is `<kernel_id>/<sha256>` and the same in every tier. What a tier returns is verified
    against it; other bytes are quarantined, and the next tier is asked.
    """

    def __init__(
        self, tiers: Sequence[Tier], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Use the tiers in this order; the last one is the durable one."""
        kinds = [tier.kind for tier in tiers]
        self._tiers = [
            MonitoredTier(
                tier,
                # The place in the list distinguishes two tiers of a kind.
                tier.kind if kinds.count(tier.kind) == 1 else f"{tier.kind}-{index}",
                durable=index == len(tiers),
                clock=clock,
            )
            for index, tier in enumerate(tiers, start=1)
        ]
        self._local = [member for member in self._tiers if member.tier.in_process]
        self._flights = SingleFlight[bytes]()
        self._missed: dict[str, deque[KernelName]] = {
            member.label: deque(maxlen=MAX_MISSED) for member in self._tiers[:-1]
        }

    def put(self, kernel_id: str, data: bytes) -> StoredKernel:
        """Write an artifact to every tier, the durable one first; a repeated `put` is harmless.

        Announce a kernel only if the result is `durable`. A cache that failed lately is left alone.

        Raises:
            StoreUnavailable: no tier that outlives this process has the artifact.
        """
        name = name_of(kernel_id, data)
        failed: dict[str, str] = {}
        written = 0
        for member in reversed(self._tiers):
            if member.tier.in_process and written == 0:
                continue
            reason = self._write(member, name, data)
            if reason is None:
                written += 1
            else:
                failed[member.label] = reason
                if not member.durable and member.may_write:
                    self._missed[member.label].append(name)
        if written == 0:
            raise StoreUnavailable(failed[self._tiers[-1].label])
        return StoredKernel(str(name), self._tiers[-1].label not in failed, failed)

    def get(self, location: str) -> bytes:
        """Return the bytes at a location, and copy them to the tiers before the one that had them.

        Threads that ask for the same location at the same time share one read.

        Raises:
            KernelMissing: no tier has the kernel, or the location is malformed.
            KernelAltered: the copies that were found had other bytes.
            StoreUnavailable: no tier that answers has the kernel, and another may have it.
        """
        name = name_at(location)
        for member in self._local:
            if (data := member.tier.read(name)) is not None:
                member.count("hits")
                return data
        return self._flights.call(name, lambda: self._read_through(name))

    def refill(self) -> bool:
        """Copy to each cache what it missed while it was down; return whether nothing is left.

        A cache that is still down is left alone.
        """
        results = [self._refill(member) for member in self._tiers[:-1]]
        return all(results)

    def is_durable(self, location: str) -> bool:
        """Return whether the durable tier has the kernel, unaltered.

        Raises:
            StoreUnavailable: the durable tier does not answer.
        """
        return self._read_alone(self._tiers[-1], name_at(location)) is not None

    def ping(self) -> None:
        """Check every tier, also those that failed lately.

        Raises:
            StoreUnavailable: a tier does not answer; the first failure.
        """
        errors = [error for error in map(self._ping, self._tiers) if error is not None]
        if errors:
            raise errors[0]

    def health(self) -> tuple[TierHealth, ...]:
        """Return the health of each tier; a tier that is down and due for a retry is pinged."""
        for member in self._tiers:
            if not member.is_up and member.is_due:
                self._ping(member)
        return tuple(member.health() for member in self._tiers)

    def state(self) -> StoreState:
        """Return the health of the whole; see `health`."""
        return state_of(self.health())

    @property
    def tiers(self) -> tuple[MonitoredTier, ...]:
        """The tiers in their order, for maintenance."""
        return tuple(self._tiers)

    def close(self) -> None:
        """Close all connections."""
        for member in self._tiers:
            member.tier.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _write(self, member: MonitoredTier, name: KernelName, data: bytes) -> str | None:
        """Write to a tier; return the reason if it failed."""
        if not member.durable and not member.is_due:
            return member.error
        try:
            member.write(lambda tier: tier.write(name, data))
        except StoreUnavailable as error:
            return str(error)
        member.count("writes")
        return None

    def _refill(self, member: MonitoredTier) -> bool:
        missed = self._missed[member.label]
        if not member.may_write:
            missed.clear()
        if missed and not member.is_due:
            return False
        while missed:
            name = missed.popleft()
            try:
                data = self._read_alone(self._tiers[-1], name)
                reason = None if data is None else self._write(member, name, data)
            except StoreUnavailable as error:
                reason = str(error)
            if reason is not None:
                missed.append(name)
                return False
        return True

    def _read_through(self, name: KernelName) -> bytes:
        failed: dict[str, str] = {}
        altered: dict[str, str] = {}
        # Tiers that failed lately are asked last: only if no other one has the kernel.
        due = [member.is_due for member in self._tiers]
        order = sorted(range(len(self._tiers)), key=lambda index: not due[index])
        for index in order:
            member = self._tiers[index]
            try:
                data = self._read(member, name, altered)
            except StoreUnavailable as error:
                failed[member.label] = str(error)
                continue
            if data is not None:
                _log_altered(name, altered)
                self._promote(index, name, data)
                return data
        if failed:
            raise StoreUnavailable(failed.get(self._tiers[-1].label) or next(iter(failed.values())))
        if altered:
            raise KernelAltered(
                f"no intact copy of kernel {name}: "
                + "; ".join(f"{label} {what}" for label, what in altered.items())
                + ": the bytes changed after validation and are quarantined"
            )
        asked = ", ".join(member.tier.address for member in self._tiers)
        raise KernelMissing(
            f"no kernel at {name} in {asked}; use the store that the compile worker writes to"
        )

    def _read_alone(self, member: MonitoredTier, name: KernelName) -> bytes | None:
        """Return verified bytes from one tier, see `_read`; log altered ones."""
        altered: dict[str, str] = {}
        data = self._read(member, name, altered)
        _log_altered(name, altered)
        return data

    def _read(
        self, member: MonitoredTier, name: KernelName, altered: dict[str, str]
    ) -> bytes | None:
        """Return verified bytes from one tier; None if it has none, or altered ones.

        Raises:
            StoreUnavailable: it does not answer.
        """
        data = member.call(lambda tier: tier.read(name))
        if data is None:
            member.count("misses")
            return None
        if (found := sha256_of(data)) == name.sha256:
            member.count("hits")
            return data
        member.count("quarantined")
        altered[member.label] = f"has {len(data)} bytes with SHA-256 {found}"
        try:
            member.tier.quarantine(name, data)
        except StoreUnavailable as error:
            # A reader may lack the right to move it; the bytes are refused all the same.
            log.error("kernel %s in %s cannot be quarantined: %s", name, member.label, error)
        return None

    def _promote(self, index: int, name: KernelName, data: bytes) -> None:
        """Copy an artifact to the tiers before `index` that answer."""
        for member in self._tiers[:index]:
            if member.is_due and self._write(member, name, data) is None:
                member.count("promotions")

    def _ping(self, member: MonitoredTier) -> StoreUnavailable | None:
        try:
            member.call(lambda tier: tier.ping())
        except StoreUnavailable as error:
            return error
        return None


def state_of(health: Sequence[TierHealth]) -> StoreState:
    """Return the state of a store whose tiers have this health."""
    if all(tier.up for tier in health):
        return StoreState.HEALTHY
    lasting = [tier for tier in health if not tier.in_process]
    return StoreState.DEGRADED if any(tier.up for tier in lasting) else StoreState.FAILED


def _log_altered(name: KernelName, altered: Mapping[str, str]) -> None:
    """Log altered copies of a kernel that no exception names."""
    for label, what in altered.items():
        log.error("kernel %s in %s %s: altered, and quarantined", name, label, what)
