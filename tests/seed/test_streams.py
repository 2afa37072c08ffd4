"""Streams: on a device without streams, branches run sequentially; branches equal a sequence."""

from collections.abc import Callable
from typing import cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from esper.seed import AsyncConv2dKernel, Seed
from esper.seed.cuda.parallel_branches import sum_in_parallel
from esper.seed.cuda.streams import BranchGroup, StreamManager
from tests.seed.hosts import host, images, sites_of
from tests.seed.kernels import awaken, kernel_for, plant

Forward = Callable[[Tensor], Tensor]
CPU = torch.device("cpu")


def test_a_device_without_streams_has_no_side_streams() -> None:
    assert StreamManager().side_streams(CPU) == ()
    StreamManager().join(CPU)


def test_a_negative_number_of_streams_is_refused() -> None:
    with pytest.raises(ValueError, match="-1 side streams; use at least 0"):
        StreamManager(-1)


@given(st.lists(st.integers(0, 9), max_size=6), st.integers(0, 4))
def test_without_streams_branches_run_in_turn_on_the_calling_thread(
    numbers: list[int], streams: int
) -> None:
    ran: list[int] = []

    def work(x: Tensor) -> Tensor:
        ran.append(int(x))
        return x * 2

    with StreamManager(streams).fork(CPU) as fork:
        doubled = [fork.start(work, torch.tensor(number)) for number in numbers]
    assert ran == numbers
    assert [int(number) for number in doubled] == [2 * number for number in numbers]


class OneByOne(BranchGroup):
    """Branches on the CPU: run sequentially, all joined at the end."""

    def start(self, work: Callable[..., Tensor], *reads: Tensor) -> Tensor:
        """Run immediately."""
        return work(*reads)

    def join(self) -> None:
        """Wait for nothing."""


class ForkedOnCpu(StreamManager):
    """A manager that takes the code path of a GPU with side streams."""

    def fork(self, device: torch.device) -> BranchGroup:
        """Return branches that report a stream."""
        branches = OneByOne((), self.dependencies)
        branches.streams = (cast(torch.cuda.Stream, object()),)
        return branches


def forked(host: Forward, x: Tensor, seeds: list[Seed]) -> Tensor:
    """Return the sum on the code path with streams."""
    return sum_in_parallel(host, x, seeds, ForkedOnCpu())


def by_default(host: Forward, x: Tensor, seeds: list[Seed]) -> Tensor:
    """Return the sum as a site computes it on the CPU."""
    return sum_in_parallel(host, x, seeds, StreamManager(4))


@pytest.mark.parametrize("ours", [forked, by_default])
def test_a_parallel_sum_is_bit_equal_to_a_sequential_one(ours: Callable[..., Tensor]) -> None:
    site = sites_of(host())["conv"]
    for slot, name in enumerate(("residual-conv3x3", "squeeze-excite", "spatial-attention")):
        plant(site, slot, name, alpha=0.3)
    assert site.bank is not None
    awaken(site.bank)
    seeds, layer = [seed for _, seed in site.seeds()], site.layer

    def forward(x: Tensor) -> Tensor:
        h: Tensor = type(layer).forward(layer, x)
        return h

    def by_hand(host: Forward, x: Tensor, seeds: list[Seed]) -> Tensor:
        y = h = host(x)
        for seed in seeds:
            y = y + seed.alpha * seed.kernel(x, h)
        return y

    weights = [parameter for part in (layer, *seeds) for parameter in part.parameters()]
    results = []
    for call in (ours, by_hand):
        y = call(forward, x := images().requires_grad_(), seeds)
        results.append((y, *torch.autograd.grad(y.square().mean(), (x, *weights))))
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found, expected)


def test_an_error_in_a_branch_is_raised_to_the_caller() -> None:
    def fail(x: Tensor) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), StreamManager().fork(CPU) as fork:
        fork.start(fail, torch.zeros(1))


def test_an_async_kernel_computes_the_same_as_its_kernel() -> None:
    site = sites_of(host())["conv"]
    kernel = kernel_for("residual-conv3x3", site.signature)
    awaken(kernel)
    x, h = images(), torch.randn(5, 8, 6, 6)
    assert torch.equal(AsyncConv2dKernel(kernel)(x, h), kernel(x, h))


def test_an_async_kernel_of_another_site_kind_is_refused() -> None:
    site = sites_of(host())["fc1"]
    with pytest.raises(ValueError, match="is for a vector; AsyncConv2dKernel runs kernels of feat"):
        AsyncConv2dKernel(kernel_for("linear-bottleneck", site.signature))


def test_a_seed_reports_whether_its_kernel_reads_x_or_h() -> None:
    site = sites_of(host())["fc1"]
    bottleneck = Seed(kernel_for("linear-bottleneck", site.signature))
    low_rank = Seed(kernel_for("low-rank-skip", site.signature))
    assert (bottleneck.reads_x, bottleneck.reads_h) == (False, True)
    assert (low_rank.reads_x, low_rank.reads_h) == (True, False)
    stranger = Seed(nn.Identity())  # type: ignore[arg-type]
    assert stranger.reads_x
    assert stranger.reads_h
