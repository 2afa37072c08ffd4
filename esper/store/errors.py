"""Errors of the stores."""

from esper.errors import EsperError


class StoreError(EsperError):
    """Base of all errors of the stores."""


class StoreUnavailable(StoreError):
    """A database does not answer, or cannot write; a retry may succeed."""


class StoreForbidden(StoreUnavailable):
    """The database answers, and its user may not do this; a retry cannot succeed."""


class KernelMissing(StoreError):
    """The location holds no kernel, or is no location; a retry cannot succeed."""


class KernelAltered(KernelMissing):
    """Every copy of the kernel had other bytes than its name says; they are quarantined."""


class StoreUrlInvalid(StoreError):
    """The list of tiers, or the URL of one, is malformed."""


class MemoryUnreadable(StoreError):
    """The stored memory of a task family is damaged or has another schema version."""
