"""The readout: a linear map from a kernel's output to a correction of the host's outputs.

It stands in for the layers behind the site, which would adapt to the kernel. Its weights start at
zero, so an untrained kernel changes nothing.
"""

from math import prod
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from esper.audition.snapshot import SnapshotRefused
from esper.topics.models import SiteKind, SiteSignature

GRID: Final = 2
"""A feature map is averaged over a grid of this many cells a side."""


class ReadoutSizes(NamedTuple):
    """Positions of the features, features at each, positions of the outputs, outputs at each."""

    from_positions: int
    features: int
    positions: int
    outputs: int


def readout_sizes(signature: SiteSignature, positions: int, outputs: int) -> ReadoutSizes:
    """Return the sizes of the readout at a site, for a host with outputs (N, positions, outputs).

    Raises:
        SnapshotRefused: the host has several positions, and the site has others.
    """
    if signature.kind is SiteKind.SEQUENCE and signature.h[0] == positions:
        return ReadoutSizes(positions, signature.h[1], positions, outputs)
    if positions != 1:
        raise SnapshotRefused(
            f"the host has outputs at {positions} positions and the site {signature.text} has "
            "none of these; the readout form needs one output a sample, or one a position"
        )
    if signature.kind is SiteKind.FEATURE_MAP:
        channels, height, width = signature.h
        return ReadoutSizes(1, channels * min(GRID, height) * min(GRID, width), 1, outputs)
    if signature.kind is SiteKind.SEQUENCE:
        return ReadoutSizes(1, 2 * signature.h[1], 1, outputs)
    return ReadoutSizes(1, prod(signature.h), 1, outputs)


def features_of(value: Tensor, sizes: ReadoutSizes) -> Tensor:
    """Return features (N, positions, features) of a kernel's output or of `h`, (N, *h).

    A feature map is averaged over a grid; a sequence, unless the host has an output at each
    position, gives its mean and its last position.
    """
    match value.dim():
        case 4:
            pooled = F.adaptive_avg_pool2d(
                value, (min(GRID, value.shape[2]), min(GRID, value.shape[3]))
            )
            return pooled.flatten(1).unsqueeze(1)
        case 3 if sizes.from_positions == 1:
            return torch.cat([value.mean(1), value[:, -1]], dim=-1).unsqueeze(1)
        case 3:
            return value
        case _:
            return value.unsqueeze(1)


def correction(features: Tensor, weight: Tensor) -> Tensor:
    """Return the correction (N, P, C) for features (N, P, F) and weights (F + 1, C).

    The last row of the weights is the bias.
    """
    return features @ weight[:-1] + weight[-1]
