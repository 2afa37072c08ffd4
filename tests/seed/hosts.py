"""Hosts to grow in, small enough to follow by hand."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.seed import Site, find_sites

SITES = ("conv", "fc1")


class Host(nn.Module):
    """A convolution and two linear layers: images (B, 2, 6, 6) to logits (B, 3)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 8, 3, padding=1)
        self.fc1 = nn.Linear(8, width)
        self.fc2 = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        x = F.relu(self.conv(x)).mean(dim=(-2, -1))
        logits: Tensor = self.fc2(F.relu(self.fc1(x)))
        return logits


def images(count: int = 5, seed: int = 0) -> Tensor:
    """Return inputs (count, 2, 6, 6) of a `Host`."""
    return torch.randn(count, 2, 6, 6, generator=torch.Generator().manual_seed(seed))


def labels(count: int = 5, seed: int = 0) -> Tensor:
    """Return targets (count,) of a `Host`."""
    return torch.randint(3, (count,), generator=torch.Generator().manual_seed(seed))


def host(seed: int = 0) -> Host:
    """Return a host with weights from a random seed."""
    torch.manual_seed(seed)
    return Host()


def sites_of(model: nn.Module, *names: str, slots: int = 3) -> dict[str, Site]:
    """Return the sites of a `Host`."""
    return find_sites(model, names or SITES, images(1), slots)
