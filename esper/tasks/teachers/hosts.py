"""Hosts of known-answer tasks: small, with several sites, and a bottleneck at the first site."""

from collections.abc import Callable
from typing import Final, TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

INPUTS: Final = 64
CLASSES: Final = 10
BOTTLENECK: Final = 4
HIDDEN: Final = 24

READER_INPUTS: Final = 16
READER_HIDDEN: Final = 16
READER_CLASSES: Final = 8
KEPT_POSITIONS: Final = 2

Host = TypeVar("Host", bound=nn.Module)


class StudentHost(nn.Module):
    """1,168 parameters: a bottleneck of 4 between 64 inputs and two hidden layers of 24."""

    def __init__(self, bottleneck: int = BOTTLENECK, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.front = nn.Sequential(
            nn.Linear(INPUTS, bottleneck, bias=False), nn.Linear(bottleneck, hidden, bias=False)
        )
        self.middle = nn.Linear(hidden, hidden, bias=False)
        self.back = nn.Linear(hidden, CLASSES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 10) for samples (B, 64)."""
        logits: Tensor = self.back(F.relu(self.middle(F.relu(self.front(x)))))
        return logits


class ReaderHost(nn.Module):
    """640 parameters: layers that read one position, and drop all but the last two after `front`.

    The logits are of the last position. Only a kernel at `front` can read the other positions.
    """

    def __init__(self, hidden: int = READER_HIDDEN) -> None:
        super().__init__()
        self.front = nn.Linear(READER_INPUTS, hidden, bias=False)
        self.middle = nn.Linear(hidden, hidden, bias=False)
        self.back = nn.Linear(hidden, READER_CLASSES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 8) for sequences (B, T, 16)."""
        last = F.relu(self.front(x))[:, -KEPT_POSITIONS:]
        logits: Tensor = self.back(F.relu(self.middle(last))[:, -1])
        return logits


def wide_student(params: int) -> StudentHost:
    """Return a student with at least `params` parameters: bottleneck and hidden layers widened."""
    return _widened(
        lambda hidden: StudentHost(round(hidden * BOTTLENECK / HIDDEN), hidden), HIDDEN, params
    )


def wide_reader(params: int) -> ReaderHost:
    """Return a reader with hidden layers widened to at least `params` parameters."""
    return _widened(ReaderHost, READER_HIDDEN, params)


def _widened(make: Callable[[int], Host], hidden: int, params: int) -> Host:
    host = make(hidden)
    while sum(parameter.numel() for parameter in host.parameters()) < params:
        hidden += 1
        host = make(hidden)
    return host
