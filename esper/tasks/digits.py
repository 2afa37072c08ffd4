"""Handwritten digits: scikit-learn's 1,797 images of 8 by 8, a small convolutional host."""

from typing import Final

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits as load_images
from torch import Tensor, nn

from esper.tasks.train import DatasetSplits, Task


class DigitsHost(nn.Module):
    """Two convolutions and two linear layers, narrow enough that a kernel can help."""

    def __init__(self, first: int = 4, second: int = 8, hidden: int = 12) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, first, 3, padding=1)
        self.conv2 = nn.Conv2d(first, second, 3, padding=1)
        self.fc1 = nn.Linear(second * 2 * 2, hidden)
        self.fc2 = nn.Linear(hidden, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 10) for images (B, 1, 8, 8)."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(torch.flatten(x, 1)))
        logits: Tensor = self.fc2(x)
        return logits


def load_digits() -> DatasetSplits:
    """Return images (N, 1, 8, 8) in [0, 1] with labels: 1,150 train, 200 probe, 447 test.

    A fixed permutation splits them.
    """
    bunch = load_images()
    images = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16.0
    labels = torch.tensor(bunch.target, dtype=torch.long)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, probe, test = torch.split(order, [1150, 200, 447])
    return DatasetSplits(
        train=(images[train], labels[train]),
        probe=(images[probe], labels[probe]),
        test=(images[test], labels[test]),
    )


DIGITS: Final = Task(
    name="digits",
    summary="8x8 images, a host of 862 parameters",
    host=DigitsHost,
    sites=("conv1", "conv2", "fc1"),
    load=load_digits,
    epochs=60,
)
