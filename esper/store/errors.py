"""Errors of the stores."""

from esper.errors import EsperError


class StoreError(EsperError):
    """Base of all errors of the stores."""


class StoreUnavailable(StoreError):
    """The store does not answer, or cannot write; a retry may succeed."""


class KernelMissing(StoreError):
    """The location holds no kernel, or is no location of this store; a retry cannot succeed."""


class StoreUrlInvalid(StoreError):
    """The URL names no known kind of store."""


class MemoryUnreadable(StoreError):
    """The stored memory of a task family is damaged or has another schema version."""
