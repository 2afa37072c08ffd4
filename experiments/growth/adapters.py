"""Baseline: low-rank adapters at the sites of a host, fixed from the first step.

Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021, section 4.1. The paper freezes
a pretrained host; here host and adapters train together, as a growing host does.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

from torch import Tensor, nn

from esper.seed import find_sites

_Path = tuple[nn.Module, nn.Linear | nn.Conv2d]


class Adapted(nn.Module):
    """A layer plus a low-rank path `up(down(x))`, which adds 0 at first because `up` is zero."""

    def __init__(self, layer: nn.Module, down: nn.Module, up: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        self.layer, self.down, self.up = layer, down, up
        nn.init.zeros_(up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output plus that of the path."""
        added: Tensor = self.layer(x) + self.up(self.down(x))
        return added


def adapter_costs(host: nn.Module, sites: Sequence[str], sample: Tensor) -> dict[str, int]:
    """Return the parameters per rank at each site."""
    return {site: _params(down) + _params(up) for site, (down, up) in _paths(host, sites, sample)}


def ranks_for(costs: Mapping[str, int], params: int) -> dict[str, int]:
    """Return ranks whose total cost is closest to `params`.

    Ranks differ between sites by 1 at most.
    """
    same = params // sum(costs.values())
    rest = params - same * sum(costs.values())
    more = min(
        (sites for count in range(len(costs) + 1) for sites in combinations(costs, count)),
        key=lambda sites: abs(rest - sum(costs[site] for site in sites)),
    )
    return {site: same + (site in more) for site in costs}


def with_adapters(host: nn.Module, ranks: Mapping[str, int], sample: Tensor) -> nn.Module:
    """Return the host with adapters of these ranks; rank 0 adds none."""
    for site, rank in ranks.items():
        if rank:
            ((_, (down, up)),) = _paths(host, (site,), sample, rank)
            host.set_submodule(site, Adapted(host.get_submodule(site), down, up))
    return host


def _paths(
    host: nn.Module, sites: Sequence[str], sample: Tensor, rank: int = 1
) -> Sequence[tuple[str, _Path]]:
    return [
        (name, _path(site.layer, site.signature.x, site.signature.h, rank))
        for name, site in find_sites(host, sites, sample, slots=1).items()
    ]


def _path(layer: nn.Module, x: Sequence[int], h: Sequence[int], rank: int) -> _Path:
    if isinstance(layer, nn.Conv2d):
        # As in the authors' code: the layer's kernel size first, then a 1x1 convolution.
        down = nn.Conv2d(
            layer.in_channels,
            rank,
            layer.kernel_size,  # type: ignore[arg-type]
            layer.stride,  # type: ignore[arg-type]
            layer.padding,  # type: ignore[arg-type]
            bias=False,
        )
        return down, nn.Conv2d(rank, layer.out_channels, 1, bias=False)
    return nn.Linear(x[-1], rank, bias=False), nn.Linear(rank, h[-1], bias=False)


def _params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
