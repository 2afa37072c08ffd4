"""Grow a model in DistributedDataParallel, on CPU processes over gloo.

esper up
esper blueprint publish --shipped
torchrun --nproc-per-node 2 examples/ddp.py
"""

import argparse

import torch
import torch.distributed as dist
from grow import host, samples
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import esper


def main() -> None:
    """Train on every rank; rank 0 prints the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    arguments = parser.parse_args()
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    torch.set_num_threads(1)

    model = DistributedDataParallel(host())
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    training_set = TensorDataset(*samples(4096, seed=1))
    sampler = DistributedSampler(training_set)
    loader = DataLoader(training_set, batch_size=16, sampler=sampler)
    with esper.grow(
        model,
        optimizer,
        sites=["0", "2"],
        probe=samples(512, seed=2),
        loss_fn=F.cross_entropy,
        run="ranks",
        report_every=20,
    ) as growth:
        for epoch in range(arguments.epochs):
            sampler.set_epoch(epoch)
            for x, y in loader:
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                growth.step(loss)
    if dist.get_rank() == 0:
        print(f"run {growth.run_id}: {len(growth.run_history.decisions)} decisions")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
