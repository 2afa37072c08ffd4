"""Fixed adapters of low rank at the sites of a host, from the first step: the plainest rival.

Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021, section 4.1. There the host was
trained before and is frozen; here it is trained with its adapters, as a host is while it grows.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

from torch import Tensor, nn

from esper.seed import find_sites

_Path = tuple[nn.Module, nn.Linear | nn.Conv2d]


class Adapted(nn.Module):
    """A layer, and beside it a path of low rank that begins as nothing: `up` is zero."""

    def __init__(self, layer: nn.Module, down: nn.Module, up: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        self.layer, self.down, self.up = layer, down, up
        nn.init.zeros_(up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the layer gives, and what the path adds."""
        added: Tensor = self.layer(x) + self.up(self.down(x))
        return added


def adapter_costs(host: nn.Module, sites: Sequence[str], sample: Tensor) -> dict[str, int]:
    """Return the parameters that one more rank costs at each site."""
    return {site: _params(down) + _params(up) for site, (down, up) in _paths(host, sites, sample)}


def ranks_for(costs: Mapping[str, int], params: int) -> dict[str, int]:
    """Return ranks that together cost as near to `params` as can be.

    The rank is the same at all sites, or one more at some of them.
    """
    same = params // sum(costs.values())
    rest = params - same * sum(costs.values())
    more = min(
        (some for count in range(len(costs) + 1) for some in combinations(costs, count)),
        key=lambda some: abs(rest - sum(costs[site] for site in some)),
    )
    return {site: same + (site in more) for site in costs}


def with_adapters(host: nn.Module, ranks: Mapping[str, int], sample: Tensor) -> nn.Module:
    """Return the host with adapters of these ranks, none where the rank is 0."""
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
        # As the authors have it for convolutions: the layer's own kernel, then one of 1x1.
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
