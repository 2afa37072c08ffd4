"""The loader: fetch, verify and build kernels on a background thread, without torch.

The caller supplies the function that builds from verified bytes. Each request ends in one of four
messages: `KernelVerified`, `KernelRefused`, `KernelsPrepared` or `KernelsFailed`.
"""

import heapq
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import MappingProxyType
from typing import Final, Generic, TypeVar

from esper.kernel.fetch import fetch_kernel, fetch_trained
from esper.kernel.refusal import ArtifactRefused
from esper.signing import TrustedKeys
from esper.store import KernelMissing, KernelStore, StoreUnavailable
from esper.topics.models import KernelReady

RETRY_DELAYS_S: Final = (0.2, 1.0, 5.0, 15.0)
"""Delays between retries of an unavailable store; after the last one the kernel is refused."""

CACHE_BYTES: Final = 256 << 20

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class KernelVerified:
    """The kernel's bytes are verified and can be built."""

    ready: KernelReady


@dataclass(frozen=True, slots=True)
class KernelRefused:
    """The kernel cannot run here; `reason` says why."""

    kernel_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class KernelsPrepared(Generic[T]):
    """The results of one `prepare`, by kernel id."""

    token: str
    kernels: Mapping[str, T]


@dataclass(frozen=True, slots=True)
class KernelsFailed:
    """One `prepare` failed as a whole; `reason` says why."""

    token: str
    reason: str


Delivery = KernelVerified | KernelRefused | KernelsPrepared[T] | KernelsFailed


@dataclass(frozen=True, slots=True)
class _Verify:
    ready: KernelReady
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class _Prepare:
    token: str
    wanted: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True)
class _Revoke:
    sha256: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Withdraw:
    kernel_id: str


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


_Request = _Verify | _Prepare | _Revoke | _Withdraw


class KernelLoader(Generic[T]):
    """A background thread between a store and the trainer; its methods do not block."""

    def __init__(
        self,
        store: KernelStore,
        trusted_keys: TrustedKeys,
        deliver: Callable[[Delivery[T]], None],
        make: Callable[[KernelReady, bytes], T],
        *,
        cache_bytes: int = CACHE_BYTES,
        retry_delays_s: tuple[float, ...] = RETRY_DELAYS_S,
    ) -> None:
        """Start the thread; it calls `deliver`, which must neither block nor raise.

        The thread also calls `make`, with verified bytes; `make` may raise ArtifactRefused.
        """
        self._store = store
        self._trusted_keys = trusted_keys
        self._deliver = deliver
        self._make = make
        self._cache = _VerifiedBytes(cache_bytes)
        self._retry_delays_s = retry_delays_s
        self._verified: dict[str, KernelReady] = {}
        self._revoked: dict[str, str] = {}
        self._requests: SimpleQueue[_Request | _Stop] = SimpleQueue()
        self._retries: list[tuple[float, int, _Verify]] = []
        self._thread = threading.Thread(target=self._run, name="esper-kernel-loader", daemon=True)
        self._thread.start()

    def verify(self, ready: KernelReady) -> None:
        """Fetch and verify a kernel; delivers `KernelVerified` or `KernelRefused`.

        A repeated announcement of a verified kernel delivers nothing.
        """
        self._requests.put(_Verify(ready))

    def prepare(
        self,
        token: str,
        kernel_ids: Iterable[str],
        trained: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Build verified kernels, all or none; delivers `KernelsPrepared` or `KernelsFailed`.

        `token` is the caller's name for this request. `trained` holds the SHA-256 of artifacts with
        other weights, by kernel id, to build in place of the announced ones.
        """
        wanted = tuple((kernel_id, trained.get(kernel_id)) for kernel_id in kernel_ids)
        self._requests.put(_Prepare(token, wanted))

    def revoke(self, sha256: str, reason: str) -> None:
        """Refuse an artifact from now on; delivers `KernelRefused` if it was verified before."""
        self._requests.put(_Revoke(sha256, reason))

    def withdraw(self, kernel_id: str) -> None:
        """Fail later requests to prepare a kernel until it is verified again."""
        self._requests.put(_Withdraw(kernel_id))

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop the thread after its current request; queued requests are dropped."""
        self._requests.put(_Stop())
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            log.warning("the kernel loader is still waiting for its store after %s s", timeout_s)

    def _run(self) -> None:
        while not isinstance(request := self._next(), _Stop):
            try:
                self._handle(request)
            except Exception as error:
                # A bug must not end the thread, or later requests would get no answer.
                log.exception("the kernel loader failed at %s", request)
                if not isinstance(request, _Revoke | _Withdraw):
                    self._deliver(_failure(request, f"{type(error).__name__}: {error}"))

    def _next(self) -> _Request | _Stop:
        """Return the next request, or the next retry once it is due."""
        while True:
            wait_s = self._retries[0][0] - time.monotonic() if self._retries else None
            if wait_s is not None and wait_s <= 0:
                return heapq.heappop(self._retries)[2]
            try:
                return self._requests.get(timeout=wait_s)
            except Empty:
                continue

    def _handle(self, request: _Request) -> None:
        match request:
            case _Verify():
                self._verify(request)
            case _Revoke():
                self._revoke(request)
            case _Withdraw(kernel_id):
                self._verified.pop(kernel_id, None)
            case _Prepare(token, wanted):
                try:
                    kernels = {name: self._build(name, trained) for name, trained in wanted}
                except (ArtifactRefused, KernelMissing, StoreUnavailable) as refusal:
                    self._deliver(KernelsFailed(token, str(refusal)))
                else:
                    self._deliver(KernelsPrepared(token, kernels))

    def _verify(self, request: _Verify) -> None:
        ready = request.ready
        if self._verified.get(ready.kernel_id) == ready:
            return
        try:
            self._fetch(ready)
        except StoreUnavailable as error:
            if request.attempt < len(self._retry_delays_s):
                self._retry_later(request)
                return
            self._deliver(KernelRefused(ready.kernel_id, str(error)))
        except (ArtifactRefused, KernelMissing) as refusal:
            self._deliver(KernelRefused(ready.kernel_id, str(refusal)))
        else:
            self._verified[ready.kernel_id] = ready
            self._deliver(KernelVerified(ready))

    def _revoke(self, request: _Revoke) -> None:
        if request.sha256 in self._revoked:
            return
        self._revoked[request.sha256] = request.reason
        for ready in self._verified.values():
            if ready.sha256 == request.sha256:
                self._deliver(KernelRefused(ready.kernel_id, _why_revoked(request.reason)))

    def _retry_later(self, request: _Verify) -> None:
        due = time.monotonic() + self._retry_delays_s[request.attempt]
        again = _Verify(request.ready, request.attempt + 1)
        heapq.heappush(self._retries, (due, id(again), again))

    def _fetch(self, ready: KernelReady) -> bytes:
        """Return verified bytes from the store, and cache them."""
        self._check_revoked(ready)
        data = fetch_kernel(self._store, self._trusted_keys, ready).data
        self._cache.keep(ready.sha256, data)
        return data

    def _build(self, kernel_id: str, trained_sha256: str | None) -> T:
        if (ready := self._verified.get(kernel_id)) is None:
            raise ArtifactRefused(
                f"kernel {kernel_id} was not verified by this loader, or was withdrawn"
            )
        self._check_revoked(ready)
        if trained_sha256 is not None:
            trained = fetch_trained(self._store, ready, trained_sha256)
            return self._make(trained.ready, trained.data)
        data = self._cache.get(ready.sha256)
        if data is None:
            data = self._fetch(ready)
        return self._make(ready, data)

    def _check_revoked(self, ready: KernelReady) -> None:
        if (reason := self._revoked.get(ready.sha256)) is not None:
            raise ArtifactRefused(_why_revoked(reason))


class _VerifiedBytes:
    """An LRU cache of artifacts by SHA-256, limited in bytes."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._size_bytes = 0
        self._kept: OrderedDict[str, bytes] = OrderedDict()

    def get(self, sha256: str) -> bytes | None:
        if sha256 in self._kept:
            self._kept.move_to_end(sha256)
        return self._kept.get(sha256)

    def keep(self, sha256: str, data: bytes) -> None:
        if sha256 not in self._kept:
            self._size_bytes += len(data)
        self._kept[sha256] = data
        self._kept.move_to_end(sha256)
        while self._size_bytes > self._limit_bytes:
            _, dropped = self._kept.popitem(last=False)
            self._size_bytes -= len(dropped)


def _why_revoked(reason: str) -> str:
    return f"the kernel was revoked: {reason}"


def _failure(request: _Verify | _Prepare, reason: str) -> KernelRefused | KernelsFailed:
    match request:
        case _Verify(ready):
            return KernelRefused(ready.kernel_id, reason)
        case _Prepare(token):
            return KernelsFailed(token, reason)
