"""The work of one audition, on a thread: fetch, verify, train, store the trained weights."""

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import torch

from esper.audition import SiteAudition, SnapshotRefused, unpack_snapshot
from esper.errors import EsperError
from esper.kernel import ArtifactRefused, fetch_kernel, pack, unpack
from esper.signing import TrustedKeys
from esper.store import KernelStore, StoreUnavailable
from esper.topics.codec import sha256_of
from esper.topics.models import AuditionRequested, CurvePoint, KernelAuditioned, SnapshotArtifact

MAX_SITES: Final = 8
"""Snapshots that a worker keeps, with the kernels in training on them."""


@dataclass(frozen=True, slots=True)
class Auditioned:
    """The result of an audition, and the artifact of the trained weights where there is a gain."""

    result: KernelAuditioned
    artifact: bytes | None


class AuditionStage:
    """Trains the kernels of requests, one at a time.

    The snapshots used last stay in memory with their kernels, so a later rung goes on where the
    one before ended. A worker that has not seen the earlier rung trains it again: the same batches
    give the same weights.
    """

    def __init__(self, store: KernelStore, keys: TrustedKeys, worker: str) -> None:
        self._store, self._keys, self._worker = store, keys, worker
        self._sites: OrderedDict[tuple[str, int], SiteAudition] = OrderedDict()
        self._lock = threading.Lock()

    def perform(self, request: AuditionRequested) -> Auditioned:
        """Return the result of a request; a kernel or snapshot that cannot be used is one too.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        with self._lock:
            try:
                return self._trained(request)
            except StoreUnavailable:
                raise
            except EsperError as error:
                reason = str(error)
            except Exception as error:  # noqa: BLE001 - a kernel may fail in any way
                reason = f"{type(error).__name__}: {error}"
            return Auditioned(_result(request, reason=reason[:500], worker=self._worker), None)

    def _trained(self, request: AuditionRequested) -> Auditioned:
        started_s, cpu_s = time.monotonic(), time.thread_time()
        site = self._site(request)
        plan, _ = unpack(fetch_kernel(self._store, self._keys, request.kernel).data)
        score = site.run(plan, request.steps)
        control = site.control(request.steps)
        weights = site.weights(plan.kernel_id)
        if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
            raise ArtifactRefused("the kernel's weights became infinite or NaN in its audition")
        artifact = pack(plan, weights)
        result = _result(
            request,
            gain=score.gain,
            error=score.error,
            slope=score.slope,
            control_gain=control.gain,
            host_loss=site.host_loss,
            curve=tuple(
                CurvePoint(step=step, gain=gain) for step, gain in site.curve(plan.kernel_id)
            ),
            trained_sha256=sha256_of(artifact),
            seconds=time.monotonic() - started_s,
            cpu_seconds=time.thread_time() - cpu_s,
            worker=self._worker,
        )
        return Auditioned(result, artifact)

    def _site(self, request: AuditionRequested) -> SiteAudition:
        key = request.snapshot.sha256, request.seed
        site = self._sites.get(key)
        if site is None:
            snapshot = unpack_snapshot(self._fetched(request.snapshot))
            site = SiteAudition(request.kernel.site_signature, snapshot, request.seed)
            self._sites[key] = site
        self._sites.move_to_end(key)
        while len(self._sites) > MAX_SITES:
            self._sites.popitem(last=False)
        return site

    def _fetched(self, snapshot: SnapshotArtifact) -> bytes:
        data = self._store.get(snapshot.location)
        if sha256_of(data) != snapshot.sha256:
            raise SnapshotRefused(f"{snapshot.location} is not the snapshot that was requested")
        return data


def _result(request: AuditionRequested, **found: object) -> KernelAuditioned:
    return KernelAuditioned.model_validate(
        {
            "audition_id": request.audition_id,
            "run_id": request.run_id,
            "site": request.site,
            "kernel_id": request.kernel_id,
            "rung": request.rung,
            "steps": request.steps,
            **found,
        }
    )
