"""Fetch kernels from a store; refuse bytes that were not validated and signed."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from esper.kernel.announcement import verify_announcement
from esper.kernel.metadata import plan_of
from esper.kernel.plan import KernelPlan
from esper.kernel.refusal import ArtifactRefused
from esper.signing import TrustedKeys
from esper.store import (
    NO_CREDENTIALS,
    KernelAltered,
    KernelStore,
    StoreCredentials,
    open_store,
)
from esper.topics.codec import sha256_of
from esper.topics.models import KernelReady


class FetchedKernel(NamedTuple):
    """A kernel's announcement and its verified bytes."""

    ready: KernelReady
    data: bytes


def fetch_kernel(
    store: KernelStore, trusted_keys: TrustedKeys, ready: KernelReady
) -> FetchedKernel:
    """Return a verified kernel from a store.

    Raises:
        KernelMissing, StoreUnavailable: the store cannot deliver the artifact.
        ArtifactRefused: the announcement is not signed by a trusted key, or the artifact is not
            the announced one.
    """
    verify_announcement(trusted_keys, ready)
    data = _read(store, ready.location)
    _check_bytes(ready, data)
    _check_plan(ready, plan_of(data))
    return FetchedKernel(ready, data)


def fetch_trained(store: KernelStore, ready: KernelReady, trained_sha256: str) -> FetchedKernel:
    """Return a kernel with trained weights in place of the announced ones.

    The bytes are those of the decision that names their SHA-256, which is signed. The returned
    announcement describes them, and its signature is that of the announced kernel.

    Raises:
        KernelMissing, StoreUnavailable: the store cannot deliver the artifact.
        ArtifactRefused: the artifact is not one of this kernel.
    """
    trained = ready.model_copy(
        update={"sha256": trained_sha256, "location": f"{ready.kernel_id}/{trained_sha256}"}
    )
    data = _read(store, trained.location)
    trained = trained.model_copy(update={"bytes": len(data)})
    _check_bytes(trained, data)
    _check_plan(trained, plan_of(data))
    return FetchedKernel(trained, data)


def fetch_kernels(
    kernel_store: str,
    trusted_key_file: Path,
    announced: Iterable[KernelReady],
    credentials: StoreCredentials = NO_CREDENTIALS,
) -> dict[str, FetchedKernel]:
    """Return kernels by id from a store, given as in ESPER_KERNEL_STORE.

    Raises:
        StoreUrlInvalid, KeyUnusable: the list of tiers or the key file is invalid.
        KernelMissing, StoreUnavailable, ArtifactRefused: see `fetch_kernel`.
    """
    keys = TrustedKeys(trusted_key_file)
    with open_store(kernel_store, credentials) as store:
        return {ready.kernel_id: fetch_kernel(store, keys, ready) for ready in announced}


def fetch_all_trained(
    kernel_store: str,
    wanted: Iterable[tuple[KernelReady, str]],
    credentials: StoreCredentials = NO_CREDENTIALS,
) -> dict[str, FetchedKernel]:
    """Return kernels with trained weights, by the SHA-256 of their artifacts.

    `wanted` are announcements and the SHA-256 of an artifact that a decision named.

    Raises:
        StoreUrlInvalid: the list of tiers is invalid.
        KernelMissing, StoreUnavailable, ArtifactRefused: see `fetch_trained`.
    """
    with open_store(kernel_store, credentials) as store:
        return {sha256: fetch_trained(store, ready, sha256) for ready, sha256 in wanted}


def _read(store: KernelStore, location: str) -> bytes:
    try:
        return store.get(location)
    except KernelAltered as error:
        raise ArtifactRefused(str(error)) from error


def _check_bytes(ready: KernelReady, data: bytes) -> None:
    if len(data) != ready.bytes:
        raise ArtifactRefused(
            f"{ready.location} has {len(data)} bytes; kernel-ready says {ready.bytes}"
        )
    if (found := sha256_of(data)) != ready.sha256:
        raise ArtifactRefused(
            f"{ready.location} has SHA-256 {found}; kernel-ready says {ready.sha256}: "
            "the bytes changed after validation"
        )


def _check_plan(ready: KernelReady, plan: KernelPlan) -> None:
    if plan.kernel_id != ready.kernel_id:
        raise ArtifactRefused(
            f"{ready.location} holds kernel {plan.kernel_id}, not {ready.kernel_id}"
        )
    if plan.signature != ready.site_signature:
        raise ArtifactRefused(
            f"{ready.location} is for a site of {plan.signature}, not {ready.site_signature}"
        )
    if plan.params != ready.params:
        raise ArtifactRefused(
            f"{ready.location} has {plan.params} parameters; kernel-ready says {ready.params}"
        )
