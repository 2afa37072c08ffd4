"""Handwritten digits: scikit-learn's 1,797 images of 8 by 8, a small convolutional host."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits as load_images
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

SITES = ("conv1", "conv2", "fc1")
BATCH = 32
LEARNING_RATE = 1e-3

Samples = tuple[Tensor, Tensor]
"""Images (N, 1, 8, 8) in [0, 1] and labels (N,)."""


@dataclass(frozen=True, slots=True)
class Digits:
    """The images, split by a fixed permutation: what trains, what measures growth, what judges."""

    train: Samples
    probe: Samples
    test: Samples


@dataclass(frozen=True, slots=True)
class DigitsResult:
    """A trained host and the share of the test images that it gets right."""

    model: nn.Module
    test_accuracy: float
    params: int
    steps: int


class Steppable(Protocol):
    """What the training loop needs of growth."""

    def step(self, loss: Tensor) -> None:
        """Called once after each optimizer step."""


class NeverGrown:
    """Growth that does nothing, for the twin that shows what growing changed."""

    def step(self, loss: Tensor) -> None:
        """Leave the model as it is."""


Attach = Callable[[nn.Module, Optimizer, Digits], AbstractContextManager[Steppable]]
OnEpoch = Callable[[int, float], None]


class DigitsHost(nn.Module):
    """Two convolutions and two linear layers, narrow enough that structure can help."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 8, 3, padding=1)
        self.fc1 = nn.Linear(8 * 2 * 2, 12)
        self.fc2 = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 10) for images (B, 1, 8, 8)."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(torch.flatten(x, 1)))
        logits: Tensor = self.fc2(x)
        return logits


def load_digits() -> Digits:
    """Return the digits: 1,150 images to train on, 200 to probe with, 447 to test with."""
    bunch = load_images()
    images = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16.0
    labels = torch.tensor(bunch.target, dtype=torch.long)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, probe, test = torch.split(order, [1150, 200, 447])
    return Digits(
        train=(images[train], labels[train]),
        probe=(images[probe], labels[probe]),
        test=(images[test], labels[test]),
    )


def never_grow(
    model: nn.Module, optimizer: Optimizer, digits: Digits
) -> AbstractContextManager[Steppable]:
    """Attach nothing."""
    return nullcontext(NeverGrown())


def train_digits(
    seed: int, epochs: int, attach: Attach = never_grow, on_epoch: OnEpoch | None = None
) -> DigitsResult:
    """Train a host from `seed` for `epochs` and test it; `attach` decides whether it grows.

    Two calls that differ only in `attach` start from the same weights and see the same batches.
    """
    digits = load_digits()
    torch.manual_seed(seed)
    model = DigitsHost()
    optimizer = Adam(model.parameters(), lr=LEARNING_RATE)
    shuffle = torch.Generator().manual_seed(seed)
    images, labels = digits.train
    steps = 0
    with attach(model, optimizer, digits) as growth:
        for epoch in range(epochs):
            order = torch.randperm(len(images), generator=shuffle)
            for batch in torch.split(order, BATCH):
                loss = F.cross_entropy(model(images[batch]), labels[batch])
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                optimizer.zero_grad()
                growth.step(loss)
                steps += 1
            if on_epoch is not None:
                on_epoch(epoch + 1, float(loss.detach()))
    params = sum(parameter.numel() for parameter in model.parameters())
    return DigitsResult(model, accuracy(model, digits.test), params, steps)


def accuracy(model: nn.Module, samples: Samples) -> float:
    """Return the share of samples whose label has the largest logit, in evaluation mode."""
    images, labels = samples
    model.eval()
    with torch.no_grad():
        return float((model(images).argmax(dim=1) == labels).float().mean())
