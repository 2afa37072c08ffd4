"""Train two ranks, each on its half of every batch; `test_synchronizer.py` runs this module.

The same functions train one process on whole batches, which must give the same weights.
"""

import faulthandler
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD

from esper.seed import GradientSynchronizer, Seed, SiteRefused, find_sites, unwrap_model
from tests.seed.hosts import SITES, Host, images, labels
from tests.seed.kernels import awaken, kernel_for

RANKS: Final = 2
STUCK_AFTER_S: Final = 45.0
"""A rank that hangs prints its stack after this time; the test waits a little longer."""

BATCH: Final = 8
STEPS: Final = 4
LOW: Final = -10.0
SMALL_BUCKET_BYTES: Final = 600
"""Small, so that the kernels of these hosts fill several buckets."""


class Routing(Host):
    """A host that sends only some of its images through fc1: those whose first value is not low."""

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        hidden = F.relu(self.conv(x)).mean(dim=(-2, -1))
        through = x[:, 0, 0, 0] > LOW
        if through.any():
            hidden = hidden.index_put((through,), F.relu(self.fc1(hidden[through])))
        logits: Tensor = self.fc2(hidden)
        return logits


class Share:
    """The training of one process: all of a batch, or a rank's share with its wrapper."""

    def __init__(self, rank: int | None, device: str = "cpu") -> None:
        torch.manual_seed(0)
        self.device = device
        self.model = Routing().to(device)
        self.low = slice(BATCH, None)
        self.unreduced: list[Tensor] = []
        self.wrapped: nn.Module = self.model
        self.synchronizer: GradientSynchronizer | None = None
        self._rank = rank
        if rank is not None:
            self.wrapped = DistributedDataParallel(self.model, find_unused_parameters=True)
            self.synchronizer = GradientSynchronizer(
                self.model,
                dist.new_group(),
                lambda: self.wrapped.require_backward_grad_sync,  # type: ignore[return-value]
                bucket_bytes=SMALL_BUCKET_BYTES,
            )
        self.sites = find_sites(self.model, SITES, images(1).to(device), slots=3)
        self.optimizer = SGD(self.model.parameters(), lr=0.05, momentum=0.9)

    def plant(self, name: str, slot: int, blueprint: str) -> None:
        seed = Seed(kernel_for(blueprint, self.sites[name].signature), 0.5)
        awaken(seed.kernel, slot)
        self.sites[name].plant(slot, seed.to(self.device))
        self.optimizer.param_groups[0]["params"].extend(seed.parameters())
        if self.synchronizer is not None:
            self.synchronizer.add(seed.parameters())

    def cull(self, name: str, slot: int) -> None:
        seed = self.sites[name].remove(slot)
        gone = set(seed.parameters())
        group = self.optimizer.param_groups[0]
        group["params"] = [weight for weight in group["params"] if weight not in gone]
        if self.synchronizer is not None:
            self.synchronizer.remove(seed.parameters())

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        x, y = images(BATCH, seed=step), labels(BATCH, seed=step)
        x[self.low, 0, 0, 0] = LOW
        x, y = x.to(self.device), y.to(self.device)
        if self._rank is None:
            return x, y
        mine = slice(self._rank * BATCH // RANKS, (self._rank + 1) * BATCH // RANKS)
        return x[mine], y[mine]

    def loss(self, step: int) -> Tensor:
        x, y = self.batch(step)
        return F.cross_entropy(self.wrapped(x), y)

    def no_sync(self) -> AbstractContextManager[None]:
        if isinstance(self.wrapped, DistributedDataParallel):
            return self.wrapped.no_sync()
        return nullcontext()

    def update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()


def plant_everywhere(share: Share) -> None:
    share.plant("conv", 0, "conv-bottleneck")
    share.plant("fc1", 0, "gated-linear-unit")
    share.plant("fc1", 2, "low-rank-skip")


def every_step(share: Share) -> None:
    plant_everywhere(share)
    for step in range(STEPS):
        share.loss(step).backward()
        share.update()


def without_sync_between(share: Share) -> None:
    plant_everywhere(share)
    for step in range(0, 2 * STEPS, 2):
        with share.no_sync():
            share.loss(step).backward()
        gradient = share.sites["fc1"].seed(2).kernel.get_parameter("up.weight").grad
        assert gradient is not None
        share.unreduced.append(gradient.clone())
        share.loss(step + 1).backward()
        share.update()


def accumulating(share: Share) -> None:
    plant_everywhere(share)
    for step in range(0, 2 * STEPS, 2):
        share.loss(step).backward()
        share.loss(step + 1).backward()
        share.update()


def kernels_come_and_go(share: Share) -> None:
    for step in range(2 * STEPS):
        if step == 1:
            plant_everywhere(share)
        if step == 4:
            share.cull("fc1", 0)
        if step == 5:
            share.plant("conv", 1, "pointwise-mix")
        share.loss(step).backward()
        share.update()


def clipped(share: Share) -> None:
    plant_everywhere(share)
    for step in range(STEPS):
        share.loss(step).backward()
        nn.utils.clip_grad_norm_(share.model.parameters(), 0.1)
        share.update()


def after_a_backward_that_failed(share: Share) -> None:
    plant_everywhere(share)

    def fail(grad: Tensor) -> None:
        raise ZeroDivisionError

    with share.no_sync():
        hook = share.model.conv.weight.register_hook(fail)
        try:
            share.loss(0).backward()
        except ZeroDivisionError:
            share.optimizer.zero_grad()
        hook.remove()
    for step in range(1, STEPS):
        share.loss(step).backward()
        share.update()


def a_site_that_runs_on_one_rank_or_on_none(share: Share) -> None:
    share.plant("fc1", 0, "gated-linear-unit")
    share.plant("fc1", 2, "low-rank-skip")
    for step in range(STEPS):
        share.low = slice(0 if step == 2 else BATCH // RANKS, None)
        share.loss(step).backward()
        share.update()


CASES: Final[dict[str, Callable[[Share], None]]] = {
    case.__name__: case
    for case in (
        every_step,
        without_sync_between,
        accumulating,
        kernels_come_and_go,
        clipped,
        after_a_backward_that_failed,
        a_site_that_runs_on_one_rank_or_on_none,
    )
}


def trained(case: str, rank: int | None, device: str = "cpu") -> Share:
    """Return the share after training as in a case."""
    share = Share(rank, device)
    CASES[case](share)
    return share


def full_precision() -> None:
    """Compute float32 in full precision on a GPU, without tf32."""
    torch.backends.cudnn.allow_tf32 = False


def gpu_of(rank: int) -> tuple[str, str]:
    """Return a rank's GPU and the backend: NCCL with a GPU per rank, else gloo on one GPU."""
    if torch.cuda.device_count() < RANKS:
        return "cuda:0", "gloo"
    torch.cuda.set_device(rank)
    return f"cuda:{rank}", "nccl"


def main(folder: Path, kind: str = "cpu") -> None:
    faulthandler.dump_traceback_later(STUCK_AFTER_S, exit=True)
    full_precision()
    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    device, backend = ("cpu", "gloo") if kind == "cpu" else gpu_of(rank)
    dist.init_process_group(backend, init_method=os.environ["MEETING"], rank=rank, world_size=RANKS)
    try:
        unwrap_model(Routing())
    except SiteRefused as refusal:
        (folder / f"unwrapped-{rank}").write_text(str(refusal))
    for case in CASES:
        share = trained(case, rank, device)
        torch.save(share.model.state_dict(), folder / f"{case}-{rank}.pt")
        torch.save(share.unreduced, folder / f"{case}-{rank}-unreduced.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
