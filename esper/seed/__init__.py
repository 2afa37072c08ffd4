"""Seeds: the places in a host where kernels may be planted, and the math by which they join in.

A site carries slots; a planted kernel adds alpha * k(x, h) to what the site's own layer computes.
A site with nothing planted runs exactly the host's own module.
"""

from esper.seed.bank import AsyncSeededConv2d, Seed, SeedBank
from esper.seed.finding import SiteRefused, Suggestion, find_sites, suggest, unwrapped
from esper.seed.graphs import CaptureStats, capture_due
from esper.seed.merging import MergeRefused, merge
from esper.seed.parallel_branches import AsyncConv2dKernel
from esper.seed.ramps import RAMPS
from esper.seed.site import Site
from esper.seed.slot import Slot
from esper.seed.states import TRANSITIONS, IllegalTransition
from esper.seed.streams import STREAMS, StreamManager
from esper.seed.synchronizer import GradientSynchronizer

__all__ = [
    "RAMPS",
    "STREAMS",
    "TRANSITIONS",
    "AsyncConv2dKernel",
    "AsyncSeededConv2d",
    "CaptureStats",
    "GradientSynchronizer",
    "IllegalTransition",
    "MergeRefused",
    "Seed",
    "SeedBank",
    "Site",
    "SiteRefused",
    "Slot",
    "StreamManager",
    "Suggestion",
    "capture_due",
    "find_sites",
    "merge",
    "suggest",
    "unwrapped",
]
