"""`Tier`: what each database offers to the tiered store."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from esper.store.naming import KernelName


class Entry(NamedTuple):
    """One stored artifact; `stored_s` is the Unix time of its last `write`."""

    name: KernelName
    bytes: int
    stored_s: float


class Tier(Protocol):
    """Artifacts by name in one database; methods may block and are thread-safe.

    All methods raise StoreUnavailable when the database does not answer or refuses.
    """

    kind: str
    """The scheme of its URL: `memory`, `file`, `redis` or `postgresql`."""

    address: str
    """Its URL without a password."""

    in_process: bool
    """Whether its content ends with this process."""

    def write(self, name: KernelName, data: bytes) -> None:
        """Store an artifact, and replace the entry of that name."""
        ...

    def read(self, name: KernelName) -> bytes | None:
        """Return an entry, unverified; None without one.

        Of an entry longer than `MAX_ARTIFACT_BYTES` some bytes are returned, or none of them; their
        SHA-256 is not the name's. An entry of a wrong type is `b""`.
        """
        ...

    def quarantine(self, name: KernelName, found: bytes) -> None:
        """Put aside an entry that was read as `found`; a changed entry stays."""
        ...

    def delete(self, name: KernelName, *, stored_before_s: float | None = None) -> bool:
        """Delete an entry, if its last write was earlier than that; return whether it was."""
        ...

    def entries(self) -> Iterator[Entry]:
        """Yield all entries, in any order; quarantined ones are left out."""
        ...

    def ping(self) -> None:
        """Return if the database answers."""
        ...

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        ...
