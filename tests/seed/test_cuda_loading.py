"""Loading a kernel to a GPU does not delay its work; skipped without a GPU."""

import threading

import pytest
import torch
from torch import nn

from esper.kernel import Delivery, Kernel, KernelsFailed, KernelsPrepared, load_kernel
from esper.link import Frame, Kind
from esper.seed import Seed, Site, StreamManager, find_sites
from esper.training.frame_decoder import FrameDecoder
from tests.seed.kernels import built

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

DEVICE = torch.device("cuda", 0)
LONG_CYCLES = 2_000_000_000
"""About a second of a GPU's time."""

WIDTH = 1024


@pytest.fixture
def site() -> Site:
    """A wide linear layer on the GPU."""
    torch.manual_seed(0)
    layer = nn.Linear(WIDTH, WIDTH, device=DEVICE)
    sample = torch.zeros(1, WIDTH, device=DEVICE)
    return find_sites(nn.Sequential(layer), ["0"], sample, slots=2)["0"]


def letter(site: Site, token: str = "t") -> Frame:
    """Return the frame that carries a kernel's bytes."""
    made = built("linear-bottleneck", site.signature)
    listed = [["kernel", made.sha256, len(made.artifact)]]
    return Frame(Kind.KERNELS_PREPARED, {"token": token, "kernels": listed}, made.artifact)


def delivered(site: Site, frame: Frame) -> Delivery[Kernel]:
    """Return the delivery of a frame, decoded on a thread as in a trainer."""
    found: list[Delivery[Kernel]] = []
    decoder = FrameDecoder({"0": site})
    thread = threading.Thread(
        target=decoder.on_frame, args=(frame, found.append, lambda decision, time_ms: None)
    )
    thread.start()
    thread.join()
    return found[0]


def a_kernel(site: Site) -> Kernel:
    delivery = delivered(site, letter(site))
    assert isinstance(delivery, KernelsPrepared), delivery
    kernel: Kernel = delivery.kernels["kernel"]
    return kernel


def test_a_kernel_arrives_while_the_gpu_is_busy_with_a_step(site: Site) -> None:
    a_kernel(site)
    torch.cuda.synchronize()
    torch.cuda._sleep(LONG_CYCLES)
    step = torch.cuda.current_stream().record_event()
    kernel = a_kernel(site)
    assert not step.query(), "the step was over before the kernel was there"
    assert all(weight.device == DEVICE for weight in kernel.parameters())


def test_a_loaded_kernel_has_the_weights_that_were_sent(site: Site) -> None:
    kernel = a_kernel(site)
    sent = built("linear-bottleneck", site.signature)
    expected = load_kernel(sent.artifact, sent.sha256).state_dict()
    assert all(
        torch.equal(value.cpu(), expected[name]) for name, value in kernel.named_parameters()
    )


def test_planting_and_ramping_do_not_synchronize_with_the_gpu(site: Site) -> None:
    kernel = a_kernel(site)
    torch.cuda.set_sync_debug_mode("error")
    try:
        seed = Seed(kernel).to(DEVICE)
        site.plant(0, seed)
        seed.alpha.fill_(0.5)
        site.layer(torch.zeros(4, WIDTH, device=DEVICE)).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def overwritten(site: Site, *, records: bool) -> bool:
    """Return whether a later kernel got memory that a step still reads from a dropped one."""
    streams = StreamManager()
    shape = (4 << 20,)
    first = nn.ParameterList([nn.Parameter(torch.ones(shape))])
    streams.to_device(first, DEVICE)
    if records:
        streams.record_stream(first)
    torch.cuda._sleep(LONG_CYCLES // 10)
    read = first[0].detach() * 1.0
    del first
    streams.to_device(nn.ParameterList([nn.Parameter(torch.zeros(shape))]), DEVICE)
    return not bool((read == 1.0).all())


def test_the_memory_of_a_dropped_kernel_is_not_reused_until_the_step_has_read_it(
    site: Site,
) -> None:
    assert not any(overwritten(site, records=True) for _ in range(5))


def test_without_record_stream_the_memory_of_a_dropped_kernel_is_reused_too_early(
    site: Site,
) -> None:
    assert any(overwritten(site, records=False) for _ in range(5))


def all_that_is_left() -> list[torch.Tensor]:
    """Allocate all memory that the allocator has cached, in large pieces and then in small ones."""
    hoard = []
    for size in (4 << 20, 1 << 18, 1 << 9):
        while True:
            try:
                hoard.append(torch.empty(size, dtype=torch.uint8, device=DEVICE))
            except torch.OutOfMemoryError:
                break
    return hoard


def test_a_kernel_without_memory_is_refused_and_training_goes_on(site: Site) -> None:
    frame = letter(site, token="too large")
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-6)
    try:
        hoard = all_that_is_left()
        delivery = delivered(site, frame)
        del hoard
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert isinstance(delivery, KernelsFailed)
    assert delivery.token == "too large"
    assert "out of memory" in delivery.reason
    site.layer(torch.zeros(4, WIDTH, device=DEVICE)).sum().backward()
    a_kernel(site)
