"""Train a recorded run again, without broker and workers, and compare every report.

    esper history export RUN history.jsonl --kernels kernels/
    python examples/replay.py history.jsonl kernels/

RUN is a run of examples/grow.py with the same number of epochs.
"""

import argparse

import torch
from grow import host, samples
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import esper


def main() -> None:
    """Replay; the first difference from the recording raises `esper.ReplayDiffers`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("history")
    parser.add_argument("kernels")
    parser.add_argument("--epochs", type=int, default=20)
    arguments = parser.parse_args()
    torch.manual_seed(0)

    model = host()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    loader = DataLoader(TensorDataset(*samples(4096, seed=1)), batch_size=32, shuffle=True)
    recording = esper.read_recording(arguments.history, arguments.kernels)
    with esper.replay(
        recording,
        model,
        optimizer,
        sites=["0", "2"],
        probe=samples(512, seed=2),
        loss_fn=F.cross_entropy,
    ) as growth:
        for _ in range(arguments.epochs):
            for x, y in loader:
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                growth.step(loss)
    print(f"run {growth.run_id}: every report is as recorded")


if __name__ == "__main__":
    main()
