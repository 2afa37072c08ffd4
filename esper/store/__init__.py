"""Where kernels lie between the worker that made them and the trainers that run them.

Beside them, what earlier runs found (`esper.store.run_memory`). The only door to Redis.

In: the bytes of an artifact. Out: a location, which is relative to the configured store, so that
worker and trainer may reach the same store by different paths or addresses. A store promises
nothing about what it returns: whoever reads verifies.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from esper.store.refusal import (
    KernelMissing,
    MemoryUnreadable,
    StoreError,
    StoreUnavailable,
    StoreUrlInvalid,
)

if TYPE_CHECKING:
    from esper.store.run_memory import RedisRunMemory

__all__ = [
    "KernelMissing",
    "KernelStore",
    "MemoryUnreadable",
    "RedisRunMemory",
    "StoreError",
    "StoreUnavailable",
    "StoreUrlInvalid",
    "location_in",
    "open_store",
]


def __getattr__(name: str) -> object:
    # Resolved on first use, so that a process without Redis never loads its client.
    if name == "RedisRunMemory":
        from esper.store.run_memory import RedisRunMemory

        return RedisRunMemory
    raise AttributeError(f"module 'esper.store' has no attribute {name!r}")


class KernelStore(Protocol):
    """Kernels by location; every method may block and is safe to call from any thread."""

    def put(self, kernel_id: str, data: bytes) -> str:
        """Keep an artifact and return its location; the same bytes always get the same one.

        Raises:
            StoreUnavailable: the store cannot be reached or does not take it.
        """
        ...

    def get(self, location: str) -> bytes:
        """Return what lies at a location, unverified.

        Raises:
            KernelMissing: nothing lies there, or it is no location of this store.
            StoreUnavailable: the store cannot be reached.
        """
        ...

    def ping(self) -> None:
        """Return if the store answers.

        Raises:
            StoreUnavailable: it does not.
        """
        ...


def open_store(url: str) -> KernelStore:
    """Return the store at `file:PATH` or `redis://HOST:PORT/DB`, without connecting to it yet.

    Raises:
        StoreUrlInvalid: the URL is of neither form.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "file" and rest:
        from esper.store.file import FileStore

        return FileStore(Path(rest.removeprefix("//")))
    if scheme in ("redis", "rediss"):
        from esper.store.redis import RedisStore

        return RedisStore(url)
    raise StoreUrlInvalid(
        f"{url!r} is no kernel store; ESPER_STORE_URL is file:PATH or redis://HOST:PORT/DB"
    )


def location_in(url: str, location: str) -> str:
    """Return where in the store at a URL an artifact lies that has this location in another.

    Artifacts are named by their content, and so by the same name in every store.
    """
    scheme = "file" if url.startswith("file:") else "redis"
    return f"{scheme}:{location.partition(':')[2]}"
