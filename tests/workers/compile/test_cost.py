"""A kernel's cost as ratios to the host layer measured with it."""

from esper.topics.models import Characterisation
from esper.workers.compile.worker import cost_of

MEASURED = Characterisation(
    params=10,
    bytes=100,
    flops=2000,
    activation_bytes=64,
    forward_ms=1.0,
    backward_ms=3.0,
    peak_bytes=600,
    batch=4,
    device="cpu",
    host_forward_ms=2.0,
    host_backward_ms=6.0,
    host_peak_bytes=300,
)


def test_latency_is_forward_plus_backward_and_memory_is_the_peak() -> None:
    cost = cost_of(MEASURED)
    assert (cost.flops, cost.latency_ratio, cost.memory_ratio) == (2000, 0.5, 2.0)


def test_without_host_measurements_the_ratios_are_none() -> None:
    without = {"host_forward_ms": None, "host_backward_ms": None, "host_peak_bytes": None}
    cost = cost_of(MEASURED.model_copy(update=without))
    assert (cost.flops, cost.latency_ratio, cost.memory_ratio) == (2000, None, None)
