"""Seeds: the slots in a host where kernels are planted, and the math that adds their outputs.

In: a host's layers, kernels, and the operations of decisions. Out: layers that compute
y = h + sum of alpha * k(x, h). A site with nothing planted runs exactly the host's own module.
"""

from esper.seed.bank import AsyncSeededConv2d, SeedBank, SlotTaken
from esper.seed.cuda import (
    STREAMS,
    AsyncConv2dKernel,
    CaptureStats,
    EagerReason,
    StreamManager,
    capture_due,
)
from esper.seed.eval_mode import evaluation_mode
from esper.seed.forward_adapters import BANK_NAME, forward_channels_first
from esper.seed.merging import MergeRefused, merge
from esper.seed.observer import SiteObserver
from esper.seed.private_torch import foreach_norm
from esper.seed.ramps import RAMPS
from esper.seed.seed import Seed
from esper.seed.site import NothingPlanted, Site
from esper.seed.site_finder import (
    SiteRefused,
    SiteSuggestion,
    find_sites,
    suggest_sites,
    unwrap_model,
)
from esper.seed.slot import Slot
from esper.seed.states import TRANSITIONS, IllegalTransition
from esper.seed.synchronizer import GradientSynchronizer

__all__ = [
    "BANK_NAME",
    "RAMPS",
    "STREAMS",
    "TRANSITIONS",
    "AsyncConv2dKernel",
    "AsyncSeededConv2d",
    "CaptureStats",
    "EagerReason",
    "GradientSynchronizer",
    "IllegalTransition",
    "MergeRefused",
    "NothingPlanted",
    "Seed",
    "SeedBank",
    "Site",
    "SiteObserver",
    "SiteRefused",
    "SiteSuggestion",
    "Slot",
    "SlotTaken",
    "StreamManager",
    "capture_due",
    "evaluation_mode",
    "find_sites",
    "foreach_norm",
    "forward_channels_first",
    "merge",
    "suggest_sites",
    "unwrap_model",
]
