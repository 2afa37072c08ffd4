"""The kernel store and the memory of earlier runs; the only door to Redis and PostgreSQL.

The bytes of an artifact go in and a location comes out: `<kernel_id>/<sha256>`, the same in every
tier of the store. The bytes that come out have that SHA-256; signatures are verified by the reader.
`RedisRunMemory` keeps results of runs for later ones.
"""

from typing import TYPE_CHECKING

from esper.lazy import lazy_attributes
from esper.store.credentials import NO_CREDENTIALS, StoreCredentials, without_password
from esper.store.errors import (
    KernelAltered,
    KernelMissing,
    MemoryUnreadable,
    StoreError,
    StoreUnavailable,
    StoreUrlInvalid,
)
from esper.store.health import StoreState, TierHealth
from esper.store.spec import SCHEMES, tiers_of
from esper.store.tiers import KernelStore, StoredKernel, state_of

if TYPE_CHECKING:
    from esper.store.maintenance import (
        Collected,
        TierFacts,
        VerifiedTier,
        collect_garbage,
        tier_facts,
        verify_tiers,
        warm_caches,
    )
    from esper.store.run_memory import RedisRunMemory

_MODULES = {
    "Collected": ".maintenance",
    "RedisRunMemory": ".run_memory",
    "TierFacts": ".maintenance",
    "VerifiedTier": ".maintenance",
    "collect_garbage": ".maintenance",
    "tier_facts": ".maintenance",
    "verify_tiers": ".maintenance",
    "warm_caches": ".maintenance",
}

__all__ = [
    "NO_CREDENTIALS",
    "SCHEMES",
    "Collected",
    "KernelAltered",
    "KernelMissing",
    "KernelStore",
    "MemoryUnreadable",
    "RedisRunMemory",
    "StoreCredentials",
    "StoreError",
    "StoreState",
    "StoreUnavailable",
    "StoreUrlInvalid",
    "StoredKernel",
    "TierFacts",
    "TierHealth",
    "VerifiedTier",
    "collect_garbage",
    "open_store",
    "state_of",
    "tier_facts",
    "tiers_of",
    "verify_tiers",
    "warm_caches",
    "without_password",
]


def open_store(spec: str, credentials: StoreCredentials = NO_CREDENTIALS) -> KernelStore:
    """Return the store of a list of URLs, as in ESPER_KERNEL_STORE, without connecting to it.

    Raises:
        StoreUrlInvalid: the list or one of its URLs is malformed, or does not fit the credentials.
    """
    return KernelStore(tiers_of(spec, credentials))


__getattr__ = lazy_attributes(__name__, _MODULES)
