"""One rank of a training that grows over several; `test_ranks.py` starts it with torchrun.

`python -m tests.training.two_ranks FOLDER`, where orders.json says what goes wrong, and where each
rank leaves what it saw.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Adam

import esper
from esper.kernel import ArtifactRefused, Kernel
from esper.training import mail
from esper.training.growth import Growth
from esper.training.ranks import LeaderFailed, RanksDiffer
from tests.seed.hosts import host, images, labels

BATCH: Final = 16
MOST_STEPS: Final = 20_000
PAUSE_S: Final = 0.002
LATE_S: Final = 7.0
REPORT_EVERY: Final = 5


def spoil(rank: int, orders: dict[str, Any]) -> None:
    """Let rank 1 fail to build one kernel, and take too long over another."""
    real = mail.kernel_from

    def kernel_from(data: bytes, sha256: str) -> Kernel:
        if sha256 == orders.get("fails"):
            raise ArtifactRefused("no room on this GPU")
        if sha256 == orders.get("late"):
            time.sleep(LATE_S)
        return real(data, sha256)

    if rank == 1:
        mail.kernel_from = kernel_from


def planted(growth: Growth) -> list[tuple[str, int, str]]:
    return [
        (site.name, slot.index, seed.kernel.sha256)
        for site in growth.sites.values()
        for slot, seed in site.seeds()
    ]


def all_agree_to_end(growth: Growth, answers: int, device: str) -> bool:
    enough = torch.tensor(int(len(growth.ancestry.outcomes) >= answers), device=device)
    dist.broadcast(enough, 0)
    return bool(enough)


def train(folder: Path, rank: int, orders: dict[str, Any]) -> None:
    device = orders["device"]
    model = host(seed=rank).to(device)
    wrapped = DistributedDataParallel(model)
    optimizer = Adam(model.parameters(), lr=0.01)
    seen: list[Any] = []
    try:
        growth = esper.grow(
            wrapped,
            optimizer,
            sites=orders["sites"][rank],
            probe=(images(20).to(device), labels(20).to(device)),
            loss_fn=F.cross_entropy,
            run="ranks",
            slots=3,
            report_every=REPORT_EVERY,
            seal_timeout_s=0.3,
        )
    except (RanksDiffer, LeaderFailed, ArtifactRefused) as error:
        saw = {"refused": type(error).__name__, "why": str(error)}
        (folder / f"rank-{rank}.json").write_text(json.dumps(saw))
        return
    with growth:
        if rank == 0:
            (folder / "run").write_text(growth.run_id)
        for step in range(1, MOST_STEPS):
            x, y = images(BATCH, seed=step).to(device), labels(BATCH, seed=step).to(device)
            mine = slice(rank, None, 2)
            loss = F.cross_entropy(wrapped(x[mine]), y[mine])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            growth.step(loss)
            if not seen or planted(growth) != seen[-1][1]:
                seen.append([step, planted(growth)])
            if step % 10 == 0 and all_agree_to_end(growth, orders["answers"], device):
                break
            time.sleep(PAUSE_S)
        states = [slot.state for site in growth.sites.values() for slot in site.slots]
    torch.save(model.state_dict(), folder / f"rank-{rank}.pt")
    saw = {"run_id": growth.run_id, "planted": seen, "states": states}
    (folder / f"rank-{rank}.json").write_text(json.dumps(saw))


def main(folder: Path) -> None:
    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    orders = json.loads((folder / "orders.json").read_text())
    several = orders["device"] == "cuda" and torch.cuda.device_count() > 1
    if several:
        torch.cuda.set_device(rank)
    dist.init_process_group("nccl" if several else "gloo")
    spoil(rank, orders)
    train(folder, rank, orders)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
