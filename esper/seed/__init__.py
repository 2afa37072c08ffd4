"""Seeds: the places in a host where kernels may be planted, and the math by which they join in.

A site carries slots; a planted kernel adds alpha * k(x, h) to what the site's own layer computes.
A site with nothing planted runs exactly the host's own module.
"""

from esper.seed.bank import Seed, SeedBank
from esper.seed.finding import SiteRefused, Suggestion, find_sites, suggest
from esper.seed.site import Site
from esper.seed.slot import Slot
from esper.seed.states import TRANSITIONS, IllegalTransition

__all__ = [
    "TRANSITIONS",
    "IllegalTransition",
    "Seed",
    "SeedBank",
    "Site",
    "SiteRefused",
    "Slot",
    "Suggestion",
    "find_sites",
    "suggest",
]
