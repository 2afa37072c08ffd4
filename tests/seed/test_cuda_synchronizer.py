"""Gradients computed on several streams are reduced completely; skipped without a GPU."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from esper.seed import AsyncConv2dKernel, GradientSynchronizer, StreamManager, find_sites
from tests.seed.kernels import awaken, kernel_for

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

SHAPE = (2, 8, 12, 12)
PASSES = 200


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dist.ProcessGroup]:
    """Return a group of this process alone: an all-reduce returns its input."""
    meeting = f"file://{tmp_path_factory.mktemp('group') / 'meeting'}"
    dist.init_process_group("nccl", init_method=meeting, rank=0, world_size=1)
    torch.backends.cudnn.deterministic = True
    made: Any = dist.new_group()
    yield made
    torch.backends.cudnn.deterministic = False
    dist.destroy_process_group()


class _Delayed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cycles: int) -> Tensor:
        ctx.cycles = cycles
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        torch.cuda._sleep(ctx.cycles)
        return grads[0], None


class Late(nn.Module):
    """A kernel whose backward on the GPU starts after a delay, in clock cycles."""

    def __init__(self, kernel: nn.Module) -> None:
        super().__init__()
        self.kernel = kernel
        self.cycles = 0

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Return k(x, h)."""
        delayed: Any = _Delayed.apply
        result: Tensor = delayed(self.kernel(x, h), self.cycles)
        return result


class Host(nn.Module):
    """A convolution with two kernels, each on a side stream."""

    def __init__(self, streams: StreamManager) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(8, 8, 3, padding=1).cuda()
        sample = torch.zeros(1, *SHAPE[1:], device="cuda")
        site = find_sites(nn.Sequential(self.layer), ["0"], sample, slots=1)["0"]
        kernels = [kernel_for(name, site.signature) for name in ("residual-conv3x3", "gated-conv")]
        self.branches = nn.ModuleList(AsyncConv2dKernel(kernel, streams) for kernel in kernels)
        awaken(self.branches)
        self.branches.cuda()
        self.late = [Late(branch.kernel) for branch in self.branches]  # type: ignore[arg-type]
        self.streams = streams

    def forward(self, x: Tensor) -> Tensor:
        """Return y, with kernels on side streams."""
        h = self.layer(x)
        with self.streams.fork(x.device) as fork:
            added = [fork.start(late, x, h) for late in self.late]
        y: Tensor = h + added[0] + added[1]
        return y


def wrong_sums(
    group: dist.ProcessGroup,
    streams: StreamManager,
    kind: type[GradientSynchronizer] = GradientSynchronizer,
) -> int:
    """Return in how many passes, delayed at random, a reduced gradient is wrong."""
    host = Host(streams)
    kernels = list(host.branches.parameters())
    synchronizer = kind(host, group, streams=streams)
    wrong = torch.zeros((), dtype=torch.long, device="cuda")
    delays = torch.randint(0, 3_000_000, (PASSES, 2), generator=torch.Generator().manual_seed(0))
    for seed, cycles in enumerate(delays.tolist()):
        x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)).cuda()
        for late in host.late:
            late.cycles = 0
        expected = torch.autograd.grad(host(x).square().sum(), kernels)
        torch.cuda.synchronize()
        synchronizer.add(kernels)
        for late, delay in zip(host.late, cycles, strict=True):
            late.cycles = delay
        poison = [torch.full_like(weight, torch.nan) for weight in kernels for _ in range(3)]
        del poison
        host(x).square().sum().backward()
        found = [weight.grad for weight in kernels]
        pairs = zip(found, expected, strict=True)
        wrong += torch.stack([torch.ne(one, other).any() for one, other in pairs]).any()
        torch.cuda.synchronize()
        synchronizer.remove(kernels)
        host.zero_grad()
    synchronizer.close()
    return int(wrong)


class Unordered(GradientSynchronizer):
    """A synchronizer that reduces a bucket without waiting for other streams."""

    def _launch(self) -> None:
        self._buckets[self._launched].launch()
        self._launched += 1


def test_gradients_from_several_streams_are_reduced_completely(
    group: dist.ProcessGroup,
) -> None:
    assert wrong_sums(group, StreamManager(2)) == 0


def test_without_waiting_for_the_streams_they_are_not(group: dist.ProcessGroup) -> None:
    assert wrong_sums(group, StreamManager(2), Unordered) > 0
