"""One rank of a training that grows over several; `test_ranks.py` starts it with torchrun.

`python -m tests.training.two_ranks FOLDER`: orders.json in the folder names the faults, and each
rank writes its observations there.
"""

import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Adam

from esper.kernel import ArtifactRefused, Kernel
from esper.seed import Seed, Site
from esper.signing import KeyUnusable
from esper.training import frame_decoder
from esper.training.growth import Growth
from esper.training.ranks import LeaderFailed, RanksDiffer
from tests.seed.hosts import host, images, labels
from tests.training.grow_fixture import attach

BATCH: Final = 16
MOST_STEPS: Final = 20_000
PAUSE_S: Final = 0.002
LATE_S: Final = 7.0
CHECKPOINT: Final = "checkpoint.pt"
REPORT_EVERY: Final = 5


def spoil(rank: int, orders: dict[str, Any]) -> None:
    """Let rank 1 fail to build a kernel, take too long over one, and fail to plant a third."""
    real = frame_decoder.load_kernel

    def load_kernel(data: bytes, sha256: str) -> Kernel:
        if sha256 == orders.get("fails"):
            raise ArtifactRefused("no room on this GPU")
        if sha256 == orders.get("late"):
            time.sleep(LATE_S)
        return real(data, sha256)

    real_plant = Site.plant

    def plant(site: Site, slot: int, seed: Seed) -> None:
        real_plant(site, slot, seed)
        if seed.kernel.sha256 == orders.get("breaks"):
            raise torch.OutOfMemoryError("no room for its gradients")

    if rank == 1:
        frame_decoder.load_kernel = load_kernel
        Site.plant = plant  # type: ignore[method-assign]


def planted(growth: Growth) -> list[tuple[str, int, str]]:
    return [
        (site.name, slot.index, seed.kernel.sha256)
        for site in growth.sites.values()
        for slot, seed in site.seeds()
    ]


class Preempted(Exception):
    """An error that ends a training from outside."""


def asked(folder: Path, device: str) -> str:
    """Return the request of the test, the name of a file in the folder, as rank 0 sees it."""
    saves = (folder / "save").exists() and not (folder / CHECKPOINT).exists()
    ends = (folder / "end").exists()
    word = torch.tensor(2 if saves else int(ends), device=device)
    dist.broadcast(word, 0)
    return ("", "end", "save")[int(word)]


def save(folder: Path, step: int, model: nn.Module, optimizer: Adam, growth: Growth) -> None:
    """Save a checkpoint of all ranks, on rank 0."""
    if dist.get_rank() == 0:
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "growth": growth.state_dict(),
            "step": step,
        }
        torch.save(state, folder / "part")
        (folder / "part").rename(folder / CHECKPOINT)
    dist.barrier()


def train(folder: Path, rank: int, orders: dict[str, Any]) -> None:
    device = orders["device"]
    state: dict[str, Any] = {"growth": None, "step": 0}
    if orders.get("resumes"):
        state = torch.load(folder / CHECKPOINT, weights_only=True)
    model = host(seed=rank).to(device)
    wrapped = DistributedDataParallel(model)
    optimizer = Adam(model.parameters(), lr=0.01)
    seen: list[Any] = []
    growth = attach(
        wrapped,
        optimizer,
        state=state["growth"],
        sites=orders["sites"][rank],
        probe=(images(20).to(device), labels(20).to(device)),
        loss_fn=F.cross_entropy,
        run="ranks",
        slots=3,
        report_every=REPORT_EVERY,
        seal_timeout_s=0.3,
    )
    if state["step"]:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    with suppress(Preempted), growth:
        if rank == 0:
            (folder / "run").write_text(growth.run_id)
        for step in range(state["step"] + 1, orders.get("last_step", MOST_STEPS) + 1):
            x, y = images(BATCH, seed=step).to(device), labels(BATCH, seed=step).to(device)
            mine = slice(rank, None, 2)
            loss = F.cross_entropy(wrapped(x[mine]), y[mine])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            growth.step(loss)
            if not seen or planted(growth) != seen[-1][1]:
                seen.append([step, planted(growth)])
            if step % REPORT_EVERY == 0 and (word := asked(folder, device)):
                if word == "end":
                    break
                save(folder, step, model, optimizer, growth)
            time.sleep(PAUSE_S)
        states = [slot.state for site in growth.sites.values() for slot in site.slots]
        weights = {name: value.cpu() for name, value in model.state_dict().items()}
        torch.save(weights, folder / f"rank-{rank}.pt")
        saw = {"run_id": growth.run_id, "planted": seen, "states": states, "last_step": step}
        (folder / f"rank-{rank}.json").write_text(json.dumps(saw))
        if orders.get("preempted"):
            raise Preempted


def main(folder: Path) -> None:
    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    orders = json.loads((folder / "orders.json").read_text())
    several = orders["device"] == "cuda" and torch.cuda.device_count() > 1
    if several:
        torch.cuda.set_device(rank)
    dist.init_process_group("nccl" if several else "gloo")
    spoil(rank, orders)
    try:
        train(folder, rank, orders)
    except (RanksDiffer, LeaderFailed, KeyUnusable) as error:
        saw = {"refused": type(error).__name__, "why": str(error)}
        (folder / f"rank-{rank}.json").write_text(json.dumps(saw))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
