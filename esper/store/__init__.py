"""The kernel store and the memory of earlier runs; the only door to Redis.

The bytes of an artifact go in and a location comes out. The location is relative to the store, so
that worker and trainer can reach one store by different paths or addresses. A store does not verify
the bytes it returns; the reader does. `RedisRunMemory` keeps results of runs for later ones.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from esper.store.credentials import NO_CREDENTIALS, StoreCredentials, without_password
from esper.store.errors import (
    KernelMissing,
    MemoryUnreadable,
    StoreError,
    StoreUnavailable,
    StoreUrlInvalid,
)

if TYPE_CHECKING:
    from esper.store.run_memory import RedisRunMemory

__all__ = [
    "NO_CREDENTIALS",
    "KernelMissing",
    "KernelStore",
    "MemoryUnreadable",
    "RedisRunMemory",
    "StoreCredentials",
    "StoreError",
    "StoreUnavailable",
    "StoreUrlInvalid",
    "location_in",
    "open_store",
    "without_password",
]


def __getattr__(name: str) -> object:
    # Resolved on first use, so that a process that needs no Redis does not load its client.
    if name == "RedisRunMemory":
        from esper.store.run_memory import RedisRunMemory

        return RedisRunMemory
    raise AttributeError(f"module 'esper.store' has no attribute {name!r}")


class KernelStore(Protocol):
    """Kernels by location; methods may block and are thread-safe."""

    def put(self, kernel_id: str, data: bytes) -> str:
        """Store an artifact and return its location; equal bytes have equal locations.

        Raises:
            StoreUnavailable: the store cannot be reached or cannot write.
        """
        ...

    def get(self, location: str) -> bytes:
        """Return the unverified bytes at a location.

        Raises:
            KernelMissing: the location is empty, or is no location of this store.
            StoreUnavailable: the store cannot be reached.
        """
        ...

    def ping(self) -> None:
        """Check that the store answers.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        ...


def open_store(url: str, credentials: StoreCredentials = NO_CREDENTIALS) -> KernelStore:
    """Return the store at `file:PATH` or `redis://HOST:PORT/DB` without connecting to it.

    Raises:
        StoreUrlInvalid: the URL has neither form, or does not fit the credentials.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "file" and rest:
        from esper.store.file import FileStore

        return FileStore(Path(rest.removeprefix("//")))
    if scheme in ("redis", "rediss"):
        from esper.store.redis import RedisStore

        return RedisStore(url, credentials)
    raise StoreUrlInvalid(
        f"{without_password(url)!r} is no kernel store; "
        "set ESPER_STORE_URL to file:PATH or redis://HOST:PORT/DB"
    )


def location_in(url: str, location: str) -> str:
    """Return the location in the store at a URL of an artifact at a location in another store.

    Artifacts are named by their content, so they have the same name in every store.
    """
    scheme = "file" if url.startswith("file:") else "redis"
    return f"{scheme}:{location.partition(':')[2]}"
