"""When a planted site is captured and replayed, and when and why it runs eagerly: on the CPU.

`FakeGraph` stands in for a captured graph; `test_cuda_seeds.py` captures real ones on a GPU.
"""

import copy
import logging
import pickle
import re
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from esper.seed import AsyncSeededConv2d, CaptureStats, Seed, Site, capture_due
from esper.seed.cuda import (
    PASSES_BEFORE_CAPTURE,
    CapturedRegion,
    EagerReason,
    SiteGraphs,
    StreamManager,
)
from esper.seed.cuda.captured_graph import CallSpec
from esper.seed.cuda.site_graphs import MAX_GRAPHS
from tests.seed.fake_graph import FakeGraph
from tests.seed.hosts import host, images, sites_of
from tests.seed.kernels import awaken, kernel_for, plant


class Growing:
    """A host with a site whose graphs are fake, on the CPU, and the graphs captured there."""

    def __init__(self, name: str = "conv", blueprint: str = "residual-conv3x3") -> None:
        self.model = host().train()
        self.site = sites_of(self.model)[name]
        self.made: list[FakeGraph] = []
        self.fails: Exception | None = None
        plant(self.site, 0, blueprint)
        awaken(self.bank)
        self.bank.graphs = SiteGraphs(self.capture, devices=("cpu",))

    def capture(self, region: CapturedRegion, spec: CallSpec, streams: StreamManager) -> FakeGraph:
        """Return a fake graph, or raise `fails` if set."""
        if self.fails:
            raise self.fails
        self.made.append(FakeGraph(region, spec, streams))
        return self.made[-1]

    @property
    def bank(self) -> Any:
        """The planted seeds."""
        return self.site.bank

    @property
    def stats(self) -> CaptureStats:
        """The counts of passes."""
        stats: CaptureStats = self.bank.capture_stats
        return stats

    def step(self, count: int = 5) -> Tensor:
        """Run a training step, and the captures due after it."""
        y: Tensor = self.model(images(count))
        y.sum().backward()
        capture_due()
        return y

    def settle(self) -> None:
        """Train until the site is captured."""
        for _ in range(PASSES_BEFORE_CAPTURE):
            self.step()
        assert len(self.made) == 1


def test_a_repeated_configuration_is_captured_and_then_replayed() -> None:
    growing = Growing()
    growing.settle()
    assert growing.stats.replays == 0
    growing.step()
    growing.step()
    assert (growing.stats.captures, growing.stats.replays) == (1, 2)
    assert growing.stats.fallbacks == {
        EagerReason.CHANGING: 1,
        EagerReason.SETTLING: PASSES_BEFORE_CAPTURE - 1,
    }
    assert growing.stats.eager_steps == PASSES_BEFORE_CAPTURE
    assert growing.stats.capture_ms > 0


def test_nothing_is_captured_during_a_step() -> None:
    growing = Growing()
    for _ in range(PASSES_BEFORE_CAPTURE + 2):
        growing.model(images()).sum().backward()
    assert not growing.made
    capture_due()
    assert len(growing.made) == 1


def test_a_replayed_step_equals_an_eager_one() -> None:
    growing = Growing()
    twin = copy.deepcopy(growing.model)
    twin.conv.esper_seeds.graphs.enabled = False  # type: ignore[union-attr]
    growing.settle()
    assert torch.equal(growing.step(), twin(images()))
    assert growing.stats.replays == 1


def test_a_layer_of_torch_is_part_of_the_graph() -> None:
    growing = Growing()
    growing.settle()
    (spec,) = growing.made[0].spec.inputs
    assert spec.size == (5, 2, 6, 6), "only x: the graph computes h"


def test_a_layer_whose_weight_is_recomputed_in_each_call_is_not_part_of_the_graph() -> None:
    growing = Growing()
    prune.l1_unstructured(growing.model.conv, "weight", amount=0.2)  # type: ignore[no-untyped-call]
    growing.settle()
    (spec,) = growing.made[0].spec.inputs
    assert spec.size == (5, 8, 6, 6), "only h: this kernel does not read x"


def test_another_shape_is_eager_and_counted() -> None:
    growing = Growing()
    growing.settle()
    growing.step(3)
    assert growing.stats.fallbacks[EagerReason.CHANGING] == 2
    growing.step()
    assert growing.stats.replays == 1, "one other batch does not drop the graph"


def test_shapes_that_always_change_are_never_captured() -> None:
    growing = Growing()
    for count in [2, 3, 4, 5, 6] * 3:
        growing.step(count)
    assert not growing.made
    assert growing.stats.fallbacks == {EagerReason.CHANGING: 15}


def test_a_smaller_last_batch_of_each_epoch_is_never_captured() -> None:
    growing = Growing()
    growing.settle()
    for _ in range(PASSES_BEFORE_CAPTURE + 1):
        growing.step(5)
        growing.step(2)
    assert growing.stats.captures == 1
    assert growing.stats.replays == PASSES_BEFORE_CAPTURE + 1


def test_only_the_latest_graphs_are_kept() -> None:
    growing = Growing()
    for count in range(2, 4 + MAX_GRAPHS):
        for _ in range(PASSES_BEFORE_CAPTURE):
            growing.step(count)
    assert growing.stats.captures == 2 + MAX_GRAPHS
    growing.step(2)
    assert growing.stats.replays == 0
    growing.step(3 + MAX_GRAPHS)
    assert growing.stats.replays == 1


def test_a_planted_or_removed_kernel_takes_effect_immediately_and_is_captured_again() -> None:
    growing = Growing()
    growing.settle()
    plant(growing.site, 1, "pointwise-mix")
    growing.step()
    assert growing.stats.replays == 0
    growing.step()
    growing.step()
    assert growing.stats.captures == 2
    growing.site.remove(0)
    growing.step()
    assert growing.stats.replays == 0


def test_graphs_of_previously_planted_kernels_are_freed() -> None:
    growing = Growing()
    plant(growing.site, 1, "pointwise-mix")
    growing.settle()
    graph = weakref.ref(growing.made.pop())
    seed = growing.site.remove(1)
    assert graph() is None, "its memory is freed immediately"
    growing.site.plant(1, seed)
    growing.step()
    assert growing.stats.replays == 0


def no_grad(growing: Growing) -> None:
    with torch.no_grad():
        growing.model(images())


def evaluation(growing: Growing) -> None:
    growing.model.eval()(images()).sum().backward()


def per_sample_alpha(growing: Growing) -> None:
    growing.site.seed(0).alpha = torch.ones(5)
    growing.step()


def checkpointed(growing: Growing) -> None:
    checkpoint(growing.model, images(), use_reentrant=False).sum().backward()


def recomputed(growing: Growing) -> None:
    checkpoint(growing.model, images().requires_grad_(), use_reentrant=True).sum().backward()


def transformed(growing: Growing) -> None:
    parameters = dict(growing.model.named_parameters())

    def loss(given: dict[str, Tensor]) -> Tensor:
        result: Tensor = torch.func.functional_call(growing.model, given, (images(),)).sum()
        return result

    torch.func.grad(loss)(parameters)


class Watching(TorchDispatchMode):
    """Sees every operation."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **kwargs or {})


class Patching(TorchFunctionMode):
    """Sees every call."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **kwargs or {})


def dispatched(growing: Growing) -> None:
    with Watching():
        growing.step()


def patched(growing: Growing) -> None:
    with Patching():
        growing.step()


def anomalies_watched(growing: Growing) -> None:
    with torch.autograd.set_detect_anomaly(True):
        growing.step()


def hooked(growing: Growing) -> None:
    growing.site.seed(0).kernel.register_forward_hook(lambda *_: None)
    growing.step()


def hooked_everywhere(growing: Growing) -> None:
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    growing.step()
    handle.remove()


def in_use(growing: Growing) -> None:
    growing.made[0].used = True
    growing.step()


def other_weights(growing: Growing) -> None:
    growing.made[0].current = False
    growing.step()


def compiled(growing: Growing) -> None:
    torch.compile(growing.model, backend="eager")(images()).sum().backward()


def frozen(growing: Growing) -> None:
    growing.model.conv.requires_grad_(False)
    growing.made[0].current = False
    for _ in range(PASSES_BEFORE_CAPTURE + 1):
        growing.step()


def off(growing: Growing) -> None:
    growing.bank.graphs.enabled = False
    growing.step()


@pytest.mark.parametrize(
    ("act", "reason", "passes"),
    [
        (no_grad, EagerReason.NO_GRADIENT, 1),
        (evaluation, EagerReason.EVALUATION, 1),
        (per_sample_alpha, EagerReason.PER_SAMPLE_ALPHA, 1),
        (checkpointed, EagerReason.CHECKPOINT, 2),
        (recomputed, EagerReason.CHECKPOINT, 1),
        (transformed, EagerReason.TRANSFORMED, 1),
        (dispatched, EagerReason.TRANSFORMED, 1),
        (patched, EagerReason.TRANSFORMED, 1),
        (anomalies_watched, EagerReason.ANOMALY_DETECTION, 1),
        (hooked, EagerReason.HOOKS, 1),
        (hooked_everywhere, EagerReason.HOOKS, 1),
        (in_use, EagerReason.IN_USE, 1),
        (other_weights, EagerReason.OTHER_WEIGHTS, 1),
        (compiled, EagerReason.COMPILED_HOST, 1),
        (frozen, EagerReason.NO_GRADIENT, PASSES_BEFORE_CAPTURE),
        (off, EagerReason.OFF, 1),
    ],
)
def test_a_pass_that_a_replay_would_change_is_eager_and_counted(
    act: Callable[[Growing], None], reason: EagerReason, passes: int
) -> None:
    growing = Growing()
    growing.settle()
    act(growing)
    assert growing.stats.replays == 0
    assert growing.stats.fallbacks[reason] == passes


def test_hooks_of_the_layer_itself_run_around_a_replay() -> None:
    growing = Growing()
    seen: list[Tensor] = []
    growing.model.conv.register_forward_hook(lambda _, __, output: seen.append(output))
    growing.settle()
    growing.step()
    assert growing.stats.replays == 1
    assert len(seen) == PASSES_BEFORE_CAPTURE + 1


def test_a_default_device_does_not_prevent_a_replay() -> None:
    growing = Growing()
    growing.settle()
    with torch.device("cpu"):
        growing.step()
    assert growing.stats.replays == 1


def test_replaced_weights_are_captured_when_settled() -> None:
    growing = Growing()
    growing.settle()
    other_weights(growing)
    for _ in range(PASSES_BEFORE_CAPTURE):
        growing.step()
    assert growing.stats.captures == 2


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("no room"), EagerReason.OUT_OF_MEMORY),
        (
            RuntimeError("operation not permitted when stream is capturing"),
            EagerReason.NOT_CAPTURABLE,
        ),
    ],
)
def test_a_failed_capture_stays_eager_and_is_logged_once(
    error: Exception, reason: EagerReason, caplog: pytest.LogCaptureFixture
) -> None:
    growing = Growing()
    growing.fails = error
    with caplog.at_level(logging.WARNING, "esper"):
        for _ in range(PASSES_BEFORE_CAPTURE + 3):
            growing.step()
    assert growing.stats.captures == 0
    assert growing.stats.fallbacks[reason] == 3
    assert [str(error) in record.message for record in caplog.records] == [True]


def test_a_copy_or_a_pickle_has_no_graphs_of_the_original() -> None:
    growing = Growing()
    growing.settle()
    twin = copy.deepcopy(growing.model)
    assert twin.conv.esper_seeds.capture_stats == CaptureStats()  # type: ignore[union-attr]
    growing.bank.graphs = SiteGraphs()
    again = pickle.loads(pickle.dumps(growing.model))
    assert torch.equal(again(images()), growing.model(images()))


def test_a_capture_due_at_a_removed_site_is_dropped() -> None:
    growing = Growing()
    for _ in range(PASSES_BEFORE_CAPTURE):
        growing.model(images()).sum().backward()
    growing.site.remove(0)
    capture_due()
    assert not growing.made


class NoWaiting(TorchDispatchMode):
    """Fails on an op that reads a tensor's value on the CPU, which would wait for a GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waits = (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero)
        assert func.overloadpacket not in waits, f"{func} waits for the device"
        return func(*args, **kwargs or {})


@pytest.mark.parametrize(("name", "blueprint"), [("conv", "squeeze-excite"), ("fc1", "swiglu")])
def test_no_step_reads_a_tensor_value_on_the_cpu(name: str, blueprint: str) -> None:
    growing = Growing(name, blueprint)
    with NoWaiting():
        growing.step()
        growing.site.seed(0).alpha.fill_(0.5)
        growing.step()
    with pytest.raises(AssertionError, match="waits for the device"), NoWaiting():
        growing.step().sum().item()


def test_a_seeded_convolution_computes_the_same_as_a_site() -> None:
    growing = Growing()
    conv = growing.model.conv
    layer = AsyncSeededConv2d(2, 8, 3, padding=1)
    layer.load_state_dict(conv.state_dict(), strict=False)
    x = images()
    assert torch.equal(layer(x), nn.functional.conv2d(x, conv.weight, conv.bias, padding=1))
    layer.bank.graphs = SiteGraphs(growing.capture, devices=("cpu",))
    kernel = kernel_for("residual-conv3x3", growing.site.signature)
    kernel.load_state_dict(growing.site.seed(0).kernel.state_dict())
    layer.plant(1, Seed(kernel, 1.0))
    for _ in range(PASSES_BEFORE_CAPTURE + 1):
        y = layer(x)
        assert torch.equal(y, conv(x))
        y.sum().backward()
        capture_due()
    assert layer.bank.capture_stats.replays == 1
    with pytest.raises(ValueError, match="slot 1 is taken"):
        layer.plant(1, Seed(kernel))
    layer.remove(1)
    assert torch.equal(layer(x), nn.functional.conv2d(x, conv.weight, conv.bias, padding=1))


def test_seeds_of_a_channels_last_layer_are_channels_last() -> None:
    model = host().to(memory_format=torch.channels_last)
    site: Site = sites_of(model)["conv"]
    kernel = plant(site, 0, "residual-conv3x3").kernel
    weights = [weight for weight in kernel.parameters() if weight.dim() == 4]
    assert weights
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def test_the_gpu_page_explains_every_eager_reason() -> None:
    page = (Path(__file__).parents[2] / "docs" / "gpu.md").read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert re.findall(r"`([a-z-]+)`", "".join(rows)) == list(EagerReason)
