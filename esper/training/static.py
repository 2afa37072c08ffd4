"""The static final network: a host with all kernels of a grown network before its first step.

It is the control for growth: trained from the same seed on the same batches, it shows what the
final architecture gives without growing. No other part of Esper runs in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from esper.errors import EsperError
from esper.kernel import FetchedKernel, load_kernel
from esper.seed import STREAMS, Seed, Site, find_sites
from esper.training.export import export_model
from esper.training.lineage import GrownKernel, Lineage, RunHistory


class StaticNetworkRefused(EsperError, ValueError):
    """A lineage that cannot be planted in this host; the message says why."""


@dataclass(frozen=True, slots=True)
class StaticNetwork:
    """A host with kernels planted in it; `model` is the host, an ordinary module to train.

    Create the optimizer afterwards: the kernels are among `model.parameters()`.
    """

    model: nn.Module
    sites: Mapping[str, Site]
    lineage: Lineage
    sample: Tensor

    def export(self, folder: str | Path) -> Path:
        """Write the network as `Growth.export` does, with no decisions; return the folder.

        Raises:
            ExportError: the host cannot be written as source; the message names the obstacle.
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
    """Plant every kernel of a lineage in a fresh host, at its site, slot and final alpha.

    Kernels start as they were announced, exact no-ops; kernels that were merged into a layer are
    planted beside it. `kernels` are by kernel id, as `fetch_kernels(.., lineage.seeds)` returns
    them; `sample` is an input of shape (1, ..).

    Raises:
        StaticNetworkRefused: nothing is in the network, or this is not the host that it grew from.
        SiteRefused: the host lacks a site of the lineage.
    """
    if not lineage.seeds:
        raise StaticNetworkRefused(
            f"the network of run {lineage.run_id} has no kernels: its static final is the host; "
            "train the host itself"
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
            f"{site.name} is a site of {site.signature}; give the host that the run began with"
        )
    if any(slot.index == grown.slot for slot, _ in site.seeds()):
        raise StaticNetworkRefused(
            f"the lineage has two kernels at {site.name}/{grown.slot}; export the run again"
        )
    seed = Seed(kernel, grown.alpha).to(next(site.layer.parameters()).device)
    STREAMS.record_stream(seed)
    site.plant(grown.slot, seed)
