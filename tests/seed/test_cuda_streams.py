"""Branches on side streams of a GPU equal sequential ones, bit for bit; skipped without a GPU."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from esper.seed import AsyncConv2dKernel, StreamManager, find_sites
from esper.seed.cuda.streams import StreamDependencies
from tests.seed.kernels import awaken, kernel_for

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

SHAPE = (8, 12, 12)


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    """Compute fp32 in full precision, without tf32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def no_wait(recorded: torch.cuda.Stream, waiting: torch.cuda.Stream) -> None:
    """Add no dependency."""


class Late(nn.Module):
    """A kernel whose work on the GPU starts after a delay, in clock cycles."""

    def __init__(self, kernel: nn.Module) -> None:
        super().__init__()
        self.kernel = kernel
        self.cycles = 0

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Return k(x, h), late."""
        torch.cuda._sleep(self.cycles)
        added: Tensor = self.kernel(x, h)
        return added


def races(dependencies: StreamDependencies, passes: int) -> int:
    """Return how many of `passes` passes over streams differ, by a bit, from sequential ones.

    Host and branch are delayed at random, and free memory is filled with NaN, so that a missing
    dependency shows.
    """
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, 3, padding=1).cuda()
    site = find_sites(nn.Sequential(layer), ["0"], torch.zeros(1, *SHAPE, device="cuda"), slots=1)[
        "0"
    ]
    branch = AsyncConv2dKernel(
        kernel_for("residual-conv3x3", site.signature), StreamManager(2, dependencies)
    )
    awaken(branch)
    branch.cuda()
    kernel, late = branch.kernel, Late(branch.kernel)
    leaves = (*layer.parameters(), *kernel.parameters())
    wrong = torch.zeros((), dtype=torch.long, device="cuda")
    generator = torch.Generator().manual_seed(0)
    for cycles in torch.randint(200_000, 3_000_000, (passes, 2), generator=generator).tolist():
        x = torch.randn(2, *SHAPE, device="cuda")
        branch.kernel = kernel
        y = (h := layer(x)) + kernel(x, h)
        expected = (y.detach(), *torch.autograd.grad(y.sum(), leaves))
        del h, y
        poison = [torch.full_like(x, torch.nan) for _ in range(4)]
        del poison
        branch.kernel, late.cycles = late, cycles[1]
        torch.cuda._sleep(cycles[0])
        y = (h := layer(x)) + branch(x, h)
        found = (y.detach(), *torch.autograd.grad(y.sum(), leaves))
        pairs = zip(found, expected, strict=True)
        wrong += torch.stack([torch.ne(*pair).any() for pair in pairs]).any()
    return int(wrong)


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Let convolutions add in the same order each time."""
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.deterministic = False


@pytest.mark.usefixtures("deterministic")
def test_a_thousand_passes_over_streams_equal_the_sequential_ones() -> None:
    assert races(StreamDependencies(), 1000) == 0


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize(
    "dependencies",
    [StreamDependencies(fork=no_wait), StreamDependencies(join=no_wait)],
    ids=["fork", "join"],
)
def test_without_one_of_the_stream_dependencies_they_differ(
    dependencies: StreamDependencies,
) -> None:
    assert races(dependencies, 100) > 0
