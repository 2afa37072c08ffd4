"""The static final network: all that is in a grown network, planted before the first step.

Trained from the same seed on the same batches, it is the control that tells whether growing
matters, and not only the shape that came of it. Nothing else of Esper runs in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from esper.kernel import FetchedKernel, load_kernel
from esper.seed import STREAMS, Seed, Site, find_sites
from esper.training.export import export_model
from esper.training.lineage import GrownKernel, Lineage, RunHistory


class StaticNetworkRefused(ValueError):
    """A lineage that cannot be planted in this host; the message says why."""


@dataclass(frozen=True, slots=True)
class StaticNetwork:
    """A host with kernels planted in it; `model` is the host, to be trained as any other.

    Make its optimizer after this: the kernels are among `model.parameters()`.
    """

    model: nn.Module
    sites: Mapping[str, Site]
    lineage: Lineage
    sample: Tensor

    def export(self, folder: str | Path) -> Path:
        """Write the network as `Growth.export` does, of no decisions; return the folder.

        Raises:
            ExportError: the host cannot be written as source; the message says what is in the way.
        """
        kernels = {seed.kernel_id: seed.ready for seed in self.lineage.seeds}
        sample = self.sample.to(next(self.model.parameters()).device)
        return export_model(
            self.model,
            self.sites,
            sample,
            RunHistory(kernels=kernels),
            f"{self.lineage.run_id}-static-final",
            Path(folder),
        )


def static_network(
    host: nn.Module, lineage: Lineage, kernels: Mapping[str, FetchedKernel], sample: Tensor
) -> StaticNetwork:
    """Plant in a fresh host, at its site, slot and final alpha, each kernel that a network has.

    Kernels are as at their birth, exact no-ops; those that were merged into a layer stand beside
    it. `kernels` are by kernel id, as `fetch_kernels(.., lineage.seeds)` returns them; `sample` is an
    input of shape (1, ..).

    Raises:
        StaticFinalRefused: nothing is in the network, or this is not the host that it grew from.
        SiteRefused: the host has no such site.
    """
    if not lineage.seeds:
        raise StaticNetworkRefused(
            f"nothing is in the network of run {lineage.run_id}: its static final is the host"
        )
    names = dict.fromkeys(seed.site for seed in lineage.seeds)
    slots = 1 + max(seed.slot for seed in lineage.seeds)
    sites = find_sites(host, names, sample, slots)
    for seed in lineage.seeds:
        _plant(sites[seed.site], seed, kernels[seed.kernel_id])
    return StaticNetwork(host, sites, lineage, sample)


def _plant(site: Site, grown: GrownKernel, verified: FetchedKernel) -> None:
    kernel = load_kernel(verified.data, grown.sha256)
    if kernel.plan.signature != site.signature:
        raise StaticNetworkRefused(
            f"kernel {grown.kernel_id[:12]} is for a site of {kernel.plan.signature}, but "
            f"{site.name} is one of {site.signature}; give the host that the run began with"
        )
    if any(slot.index == grown.slot for slot, _ in site.seeds()):
        raise StaticNetworkRefused(f"the lineage has two kernels at {site.name}/{grown.slot}")
    seed = Seed(kernel, grown.alpha).to(next(site.layer.parameters()).device)
    STREAMS.record_stream(seed)
    site.plant(grown.slot, seed)
