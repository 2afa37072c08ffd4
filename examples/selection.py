"""Choose another bandit policy, limits, and a tournament.

esper up
esper blueprint publish --shipped
python examples/selection.py
"""

import argparse

import torch
from grow import host, samples
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import esper


def main() -> None:
    """Train with KL-UCB in a tournament that adds at most 2,000 parameters."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    arguments = parser.parse_args()
    torch.manual_seed(0)

    limits = esper.TOURNAMENT.limits.model_copy(update={"max_params": 2000})
    config = esper.GrowConfig(
        policy=esper.PolicySpec(name="kl-ucb"),
        selection=esper.TOURNAMENT.model_copy(update={"limits": limits}),
        family="quadrants",
    )
    model = host()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    loader = DataLoader(TensorDataset(*samples(4096, seed=1)), batch_size=32, shuffle=True)
    with esper.grow(
        model,
        optimizer,
        sites="auto",
        probe=samples(512, seed=2),
        loss_fn=F.cross_entropy,
        run="selected",
        slots=4,
        report_every=10,
        config=config,
    ) as growth:
        for _ in range(arguments.epochs):
            for x, y in loader:
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                growth.step(loss)
    print(f"run {growth.run_id}: {len(growth.run_history.decisions)} decisions")


if __name__ == "__main__":
    main()
