"""What seeds do on a GPU only: side streams, and CUDA graphs of a site's forward and backward.

In: the region of a site (its layer and its seeds) and the inputs of a pass. Out: the region's
output, replayed from a graph if one was captured for these inputs, computed eagerly otherwise.
"""

from esper.seed.cuda.captured_graph import CapturedGraph, garbage_collection_disabled
from esper.seed.cuda.eager_reasons import EagerReason
from esper.seed.cuda.parallel_branches import AsyncConv2dKernel, CapturedRegion
from esper.seed.cuda.site_graphs import (
    PASSES_BEFORE_CAPTURE,
    CaptureStats,
    SiteGraphs,
    capture_due,
)
from esper.seed.cuda.streams import NO_SIDE_STREAMS, STREAMS, StreamManager, record_and_wait

__all__ = [
    "NO_SIDE_STREAMS",
    "PASSES_BEFORE_CAPTURE",
    "STREAMS",
    "AsyncConv2dKernel",
    "CaptureStats",
    "CapturedGraph",
    "CapturedRegion",
    "EagerReason",
    "SiteGraphs",
    "StreamManager",
    "capture_due",
    "garbage_collection_disabled",
    "record_and_wait",
]
