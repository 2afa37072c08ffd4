"""The work of one request, on a thread: fetch, verify, train, keep the trained weights."""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from esper.audition import (
    AuditionedKernel,
    AuditionSite,
    Score,
    SnapshotRefused,
    audition_control,
    audition_kernel,
    unpack_snapshot,
)
from esper.errors import EsperError
from esper.kernel import KernelPlan, fetch_kernel, pack, unpack
from esper.signing import TrustedKeys
from esper.store import KernelStore, StoreUnavailable
from esper.topics.codec import sha256_of
from esper.topics.models import (
    AuditionRequested,
    AuditionTarget,
    CurvePoint,
    KernelAuditioned,
    SnapshotArtifact,
)
from esper.workers.audition.attempts import Attempts

MAX_SITE_BYTES: Final = 1 << 30
"""Bytes of samples that a worker keeps between requests."""

MAX_CONTROLS: Final = 256


@dataclass(frozen=True, slots=True)
class Auditioned:
    """The result at one site, and the artifact of the trained weights if they may be planted."""

    result: KernelAuditioned
    artifact: bytes | None = None


class _Cost:
    """What a request costs, from now on: seconds, and CPU seconds of this thread."""

    def __init__(self) -> None:
        self._started_s, self._cpu_s = time.monotonic(), time.thread_time()

    def shared_by(self, sites: int) -> tuple[float, float]:
        """Return what each of several sites costs so far."""
        spent = time.monotonic() - self._started_s, time.thread_time() - self._cpu_s
        return spent[0] / sites, spent[1] / sites


class AuditionStage:
    """Trains the kernels of requests, one request at a time.

    Every request starts from the kernel's first weights: its result does not depend on what a
    worker did before. Sites, which are fitted once, and controls stay in memory.
    """

    def __init__(
        self,
        store: KernelStore,
        keys: TrustedKeys,
        attempts: Attempts,
        worker: str,
        *,
        device: str = "cpu",
        limit_s: float = math.inf,
    ) -> None:
        """`limit_s` limits the training of one kernel, at all of its sites."""
        self._store, self._keys, self._attempts = store, keys, attempts
        self._worker, self._device, self._limit_s = worker, device, limit_s
        self._sites: OrderedDict[str, AuditionSite] = OrderedDict()
        self._controls: OrderedDict[tuple[object, ...], tuple[Score, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def perform(self, request: AuditionRequested) -> list[Auditioned]:
        """Return a result for each target; what cannot be used gives one with the reason.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        with self._lock:
            cost = _Cost()
            found: list[Auditioned] = []
            usable: list[AuditionTarget] = []
            for target in request.targets:
                reason = self._load(request, target)
                if reason is None:
                    usable.append(target)
                else:
                    found.append(self._failed(request, target, reason))
            return found + self._trained_or_failed(request, usable, cost)

    def _load(self, request: AuditionRequested, target: AuditionTarget) -> str | None:
        """Keep the site of a target in memory; return why that is not possible."""
        snapshot = target.snapshot
        try:
            if snapshot.sha256 not in self._sites:
                self._sites[snapshot.sha256] = AuditionSite.of(
                    request.kernel.site_signature,
                    unpack_snapshot(self._fetched(snapshot)),
                    self._device,
                )
            self._sites.move_to_end(snapshot.sha256)
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - the samples are the user's
            return _reason(error)
        return None

    def _trained_or_failed(
        self, request: AuditionRequested, targets: Sequence[AuditionTarget], cost: "_Cost"
    ) -> list[Auditioned]:
        if not targets:
            return []
        try:
            with self._attempts.attempt(request):
                return list(self._trained(request, targets, cost))
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - a kernel may fail in any way
            return [self._failed(request, target, _reason(error)) for target in targets]
        finally:
            self._forget()

    def _trained(
        self, request: AuditionRequested, targets: Sequence[AuditionTarget], cost: "_Cost"
    ) -> Iterator[Auditioned]:
        plan, _ = unpack(fetch_kernel(self._store, self._keys, request.kernel).data)
        sites = [self._sites[target.snapshot.sha256] for target in targets]
        kernels = audition_kernel(plan, sites, request.steps, request.seed, self._limit_s)
        controls = self._control(request, targets)
        seconds, cpu_seconds = cost.shared_by(len(targets))
        for target, site, kernel, control in zip(targets, sites, kernels, controls, strict=True):
            if not all(bool(tensor.isfinite().all()) for tensor in kernel.weights.values()):
                reason = "the kernel's weights became infinite or NaN in its audition"
                yield self._failed(request, target, reason)
                continue
            artifact = _artifact(plan, kernel, control)
            result = self._result(
                request,
                target,
                gain=kernel.score.gain,
                error=kernel.score.error,
                slope=kernel.score.slope,
                control_gain=control.gain,
                host_loss=site.host_loss,
                curve=tuple(CurvePoint(step=step, gain=gain) for step, gain in kernel.curve),
                trained_sha256=None if artifact is None else sha256_of(artifact),
                seconds=seconds,
                cpu_seconds=cpu_seconds,
            )
            yield Auditioned(result, artifact)

    def _control(
        self, request: AuditionRequested, targets: Sequence[AuditionTarget]
    ) -> tuple[Score, ...]:
        names = tuple(target.snapshot.sha256 for target in targets)
        key = (request.seed, request.steps, *names)
        if key not in self._controls:
            sites = [self._sites[name] for name in names]
            self._controls[key] = audition_control(sites, request.steps, request.seed)
        self._controls.move_to_end(key)
        return self._controls[key]

    def _forget(self) -> None:
        """Drop what was used longest ago, beyond the limits."""
        while sum(site.nbytes for site in self._sites.values()) > MAX_SITE_BYTES:
            self._sites.popitem(last=False)
        while len(self._controls) > MAX_CONTROLS:
            self._controls.popitem(last=False)

    def _fetched(self, snapshot: SnapshotArtifact) -> bytes:
        data = b"".join(self._store.get(location) for location in snapshot.locations)
        if sha256_of(data) != snapshot.sha256:
            first = snapshot.locations[0]
            raise SnapshotRefused(f"{first} is not the snapshot that was requested")
        return data

    def _failed(
        self, request: AuditionRequested, target: AuditionTarget, reason: str
    ) -> Auditioned:
        return Auditioned(self._result(request, target, reason=reason))

    def _result(
        self, request: AuditionRequested, target: AuditionTarget, **found: object
    ) -> KernelAuditioned:
        return KernelAuditioned.model_validate(
            {
                "audition_id": target.audition_id,
                "run_id": request.run_id,
                "site": target.site,
                "kernel_id": request.kernel_id,
                "rung": request.rung,
                "steps": request.steps,
                "worker": self._worker,
                **found,
            }
        )


def _artifact(plan: KernelPlan, kernel: AuditionedKernel, control: Score) -> bytes | None:
    """Return the trained weights; a kernel that gained no more than the control is not planted."""
    return pack(plan, kernel.weights) if kernel.score.gain > control.gain else None


def _reason(error: Exception) -> str:
    text = str(error) if isinstance(error, EsperError) else f"{type(error).__name__}: {error}"
    return text[:500]
