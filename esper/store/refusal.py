"""What can go wrong with a store."""


class StoreError(Exception):
    """Any failure of a store."""


class StoreUnavailable(StoreError):
    """The store does not answer, or cannot take what it is given; trying again may help."""


class KernelMissing(StoreError):
    """Nothing lies at the location, or it is no location of this store; trying again is vain."""


class StoreUrlInvalid(StoreError):
    """A URL that names no kind of store there is."""


class MemoryUnreadable(StoreError):
    """What is kept of a task family is not of this version; the message says what to do."""
