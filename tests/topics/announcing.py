"""Announcements of kernels for sites whose partitions of `kernel-ready` are known."""

from esper.kernel import UNSIGNED
from esper.topics.bus import partition_of
from esper.topics.catalog import KERNEL_READY, partition_key
from esper.topics.codec import sha256_of
from esper.topics.models import KernelReady, SiteKind, SiteSignature

HERE = SiteSignature(kind=SiteKind.VECTOR, x=(8,), h=(12,))


def partition(signature: SiteSignature) -> int:
    return partition_of(partition_key(signature), KERNEL_READY.partitions)


def site_apart_from(*others: SiteSignature) -> SiteSignature:
    """Return a site whose kernels are announced on another partition than those of `others`."""
    sites = (HERE.model_copy(update={"x": (width,)}) for width in range(100, 200))
    taken = {partition(other) for other in others}
    return next(site for site in sites if partition(site) not in taken)


ELSEWHERE = site_apart_from(HERE)


def unsigned(name: str, signature: SiteSignature = HERE) -> KernelReady:
    digest = sha256_of(f"{name} {signature.text}".encode())
    return KernelReady(
        kernel_id=digest,
        blueprint_id=name,
        category="linear",
        site_signature=signature,
        location=f"{digest}/{digest}",
        sha256=digest,
        ed25519_signature=UNSIGNED,
        bytes=1,
        params=1,
    )
