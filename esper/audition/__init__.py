"""Auditions: kernels trained away from the training path, on a snapshot of their site.

In: the snapshot of a site, and the plans of kernels. Out: by how much each kernel lowers the
held-out loss beyond what the host would learn alone, with its standard error, and the trained
weights. A snapshot is data: an audition needs no code of the host.
"""

from esper.audition.audition import AuditionedKernel, audition_control, audition_kernel
from esper.audition.score import Score
from esper.audition.site import AuditionSite
from esper.audition.snapshot import (
    MAX_SNAPSHOT_BYTES,
    AuditionLoss,
    SiteSnapshot,
    SnapshotRefused,
    by_position,
    losses,
    pack_snapshot,
    unpack_snapshot,
)

__all__ = [
    "MAX_SNAPSHOT_BYTES",
    "AuditionLoss",
    "AuditionSite",
    "AuditionedKernel",
    "Score",
    "SiteSnapshot",
    "SnapshotRefused",
    "audition_control",
    "audition_kernel",
    "by_position",
    "losses",
    "pack_snapshot",
    "unpack_snapshot",
]
