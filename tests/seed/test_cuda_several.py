"""Several GPUs in one process, each with its own streams and graphs; skipped below two GPUs."""

import pytest
import torch
from torch import Tensor, nn

from esper.kernel import KernelsPrepared
from esper.seed import STREAMS, Seed, Site, capture_due, find_sites
from esper.seed.cuda import PASSES_BEFORE_CAPTURE
from tests.seed.kernels import awaken, kernel_for
from tests.seed.test_cuda_loading import delivered, letter

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs")

GPUS = (torch.device("cuda", 0), torch.device("cuda", 1))
WIDTH = 16


class Halves(nn.Module):
    """A layer on each GPU: (B, 16) on the first to (B, 16) on the second."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = (nn.Linear(WIDTH, WIDTH).to(gpu) for gpu in GPUS)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of both layers in turn."""
        y: Tensor = self.second(torch.tanh(self.first(x)).to(GPUS[1]))
        return y


def planted() -> tuple[Halves, list[Site]]:
    model = Halves()
    sample = torch.zeros(1, WIDTH, device=GPUS[0])
    sites = list(find_sites(model, ["first", "second"], sample, slots=1).values())
    for site, gpu in zip(sites, GPUS, strict=True):
        kernel = kernel_for("gated-linear-unit", site.signature)
        awaken(kernel)
        site.plant(0, Seed(kernel, 0.5).to(gpu))
    return model, sites


def gradients(model: Halves, x: Tensor) -> list[Tensor]:
    loss = model(x).square().mean()
    return list(torch.autograd.grad(loss, list(model.parameters())))


def test_sites_on_two_gpus_are_each_replayed_there_and_right() -> None:
    model, sites = planted()
    x = torch.randn(8, WIDTH, device=GPUS[0], generator=torch.Generator(GPUS[0]).manual_seed(0))
    eager = gradients(model, x)
    for _ in range(PASSES_BEFORE_CAPTURE - 1):
        model(x).square().mean().backward()
        capture_due()
    replayed = gradients(model, x)
    for site in sites:
        assert site.bank is not None
        assert site.bank.capture_stats.captures == 1
        assert site.bank.capture_stats.replays == 1
    for found, expected in zip(replayed, eager, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_each_gpu_has_its_own_streams() -> None:
    own = [{stream.device for stream in STREAMS.side_streams(gpu)} for gpu in GPUS]
    assert own == [{gpu} for gpu in GPUS]


def test_a_kernel_is_moved_to_the_gpu_of_its_site() -> None:
    _, (_, second) = planted()
    frame = letter(second)
    delivery = delivered(second, frame)
    assert isinstance(delivery, KernelsPrepared)
    kernel = delivery.kernels["kernel"]
    assert {weight.device for weight in kernel.parameters()} == {GPUS[1]}
