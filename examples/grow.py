"""Grow a small network in an ordinary training loop, and export it.

Needs running services and published blueprints:

    esper up
    esper blueprint publish --shipped
    python examples/grow.py --epochs 20 --export grown/
"""

import argparse
import logging

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import esper


def host() -> nn.Module:
    """Return a network that is too small for the task."""
    return nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))


def samples(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs (count, 16) and labels (count,) in 0..3: quadrants of two products."""
    x = torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))
    first, second = x[:, 0] * x[:, 1], x[:, 2] * x[:, 3]
    return x, 2 * (first > 0).long() + (second > 0).long()


def main() -> None:
    """Train, print what was grown, and export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--export", default="grown/")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    torch.manual_seed(0)

    model = host()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    loader = DataLoader(TensorDataset(*samples(4096, seed=1)), batch_size=32, shuffle=True)
    with esper.grow(
        model,
        optimizer,
        sites=["0", "2"],
        probe=samples(512, seed=2),
        loss_fn=F.cross_entropy,
        run="quadrants",
        report_every=20,
    ) as growth:
        for _ in range(arguments.epochs):
            for x, y in loader:
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                growth.step(loss)
    folder = growth.export(arguments.export)

    x, y = samples(2048, seed=3)
    with torch.no_grad():
        accuracy = (model(x).argmax(1) == y).float().mean().item()
    print(f"run {growth.run_id}: accuracy {accuracy:.1%}, exported to {folder}")


if __name__ == "__main__":
    main()
