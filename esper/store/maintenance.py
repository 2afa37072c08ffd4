"""Upkeep of a store: figures, verification, warming of caches, garbage collection."""

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from esper.store.errors import StoreUnavailable
from esper.store.health import MonitoredTier
from esper.store.naming import KernelName
from esper.store.tier import Entry, Tier
from esper.store.tiers import KernelStore
from esper.topics.codec import sha256_of

MIN_AGE_S: Final = 3600.0
"""Younger entries are never garbage: a kernel is stored before it is announced."""

Check = Callable[[str, str], str | None]
"""From kernel id and SHA-256 to the reason why an entry is bad; None if it is good."""


@dataclass(frozen=True, slots=True)
class TierFacts:
    """The content of one tier; `error` instead of figures if it does not answer."""

    tier: str
    address: str
    durable: bool
    entries: int | None = None
    bytes: int | None = None
    oldest_s: float | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class VerifiedTier:
    """The result of reading every entry of one tier.

    `bad` has the reason by location. `not_durable` lists entries that the durable tier lacks.
    """

    tier: str
    checked: int
    bad: dict[str, str]
    not_durable: tuple[str, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Collected:
    """Garbage of one tier: locations, and the sum of their bytes; `kept` counts the others.

    `error` is set for a cache that does not answer.
    """

    tier: str
    locations: tuple[str, ...] = ()
    bytes: int = 0
    kept: int = 0
    error: str | None = None


def tier_facts(store: KernelStore) -> list[TierFacts]:
    """Return the number, size and age of the entries of each tier."""
    return [_facts(member) for member in store.tiers]


def verify_tiers(
    store: KernelStore, check: Check | None = None, *, quarantine: bool = False
) -> list[VerifiedTier]:
    """Read every entry of every tier, hash it again, and `check` what has the right hash.

    With `quarantine`, entries with a wrong hash are put aside. Those that `check` refuses are only
    reported: an announcement may be wrong as well as an entry.
    """
    durable: set[KernelName] | None = None
    results = []
    for member in reversed(store.tiers):
        names: set[KernelName] = set()
        result = _verify(member, check, quarantine, names)
        if member.durable and result.error is None:
            durable = names
        if durable is not None and not member.durable:
            lacking = tuple(sorted(map(str, names - durable)))
            result = VerifiedTier(result.tier, result.checked, result.bad, lacking, result.error)
        results.append(result)
    return results[::-1]


def warm_caches(store: KernelStore, wanted: Collection[str] | None = None) -> dict[str, int]:
    """Copy kernels from the durable tier to the caches that lack them; return copies per cache.

    `wanted` are kernel ids, by default all. The latest stored are copied last, so that a cache that
    cannot hold everything keeps them.

    Raises:
        StoreUnavailable: a tier does not answer.
    """
    *caches, durable = store.tiers
    caches = [cache for cache in caches if not cache.tier.in_process]
    copied = {cache.label: 0 for cache in caches}
    present = {cache.label: {entry.name for entry in _entries(cache)} for cache in caches}
    for entry in sorted(_entries(durable), key=lambda entry: entry.stored_s):
        name = entry.name
        lacking = [cache for cache in caches if name not in present[cache.label]]
        if not lacking or (wanted is not None and name.kernel_id not in wanted):
            continue
        data = durable.call(partial(_read, name))
        if data is None or sha256_of(data) != name.sha256:
            continue
        for cache in lacking:
            cache.call(partial(_write, name, data))
            copied[cache.label] += 1
    return copied


def collect_garbage(
    store: KernelStore, named: Collection[str], *, older_than_s: float, apply: bool
) -> list[Collected]:
    """Return the entries of kernels that are not `named` and were last stored earlier than that.

    `named` are kernel ids. With `apply` the entries are deleted, unless they were stored again
    meanwhile.

    Raises:
        ValueError: `older_than_s` is below `MIN_AGE_S`.
        StoreUnavailable: the durable tier does not answer.
    """
    if older_than_s < MIN_AGE_S:
        raise ValueError(f"older_than_s is {older_than_s:g}; at least {MIN_AGE_S:g}")
    before_s = time.time() - older_than_s
    results = []
    # The durable tier first: a read between the two deletions would fill the caches again.
    for member in reversed(store.tiers):
        try:
            results.append(_collect(member, named, before_s, apply))
        except StoreUnavailable as error:
            if member.durable:
                raise
            results.append(Collected(member.label, error=str(error)))
    return results[::-1]


def _collect(
    member: MonitoredTier, named: Collection[str], before_s: float, apply: bool
) -> Collected:
    entries = list(_entries(member))
    garbage = [
        entry
        for entry in entries
        if entry.name.kernel_id not in named and entry.stored_s < before_s
    ]
    if apply:
        garbage = [entry for entry in garbage if _delete(member, entry.name, before_s)]
    return Collected(
        tier=member.label,
        locations=tuple(str(entry.name) for entry in garbage),
        bytes=sum(entry.bytes for entry in garbage),
        kept=len(entries) - len(garbage),
    )


def _facts(member: MonitoredTier) -> TierFacts:
    about = (member.label, member.tier.address, member.durable)
    try:
        entries = list(_entries(member))
    except StoreUnavailable as error:
        return TierFacts(*about, error=str(error))
    return TierFacts(
        *about,
        entries=len(entries),
        bytes=sum(entry.bytes for entry in entries),
        oldest_s=min((entry.stored_s for entry in entries), default=None),
    )


def _verify(
    member: MonitoredTier, check: Check | None, quarantine: bool, names: set[KernelName]
) -> VerifiedTier:
    """Verify the entries of a tier, and add the names of those with the right hash to `names`."""
    bad: dict[str, str] = {}
    checked = 0
    try:
        for entry in _entries(member):
            name = entry.name
            data = member.call(partial(_read, name))
            if data is None:  # It was deleted or expired meanwhile.
                continue
            checked += 1
            if (found := sha256_of(data)) != name.sha256:
                bad[str(name)] = f"SHA-256 is {found}"
                if quarantine:
                    member.call(partial(_quarantine, name, data))
                continue
            names.add(name)
            if check is not None and (why := check(name.kernel_id, name.sha256)) is not None:
                bad[str(name)] = why
    except StoreUnavailable as error:
        return VerifiedTier(member.label, checked, bad, error=str(error))
    return VerifiedTier(member.label, checked, bad)


def _entries(member: MonitoredTier) -> Iterator[Entry]:
    return iter(member.call(lambda tier: list(tier.entries())))


def _read(name: KernelName, tier: Tier) -> bytes | None:
    return tier.read(name)


def _write(name: KernelName, data: bytes, tier: Tier) -> None:
    tier.write(name, data)


def _quarantine(name: KernelName, found: bytes, tier: Tier) -> None:
    tier.quarantine(name, found)


def _delete(member: MonitoredTier, name: KernelName, before_s: float) -> bool:
    return member.call(lambda tier: tier.delete(name, stored_before_s=before_s))
