"""Planted sites on a GPU: a replayed graph computes the same as the eager pass.

Skipped without a GPU; `test_site_graphs.py` tests the control flow on the CPU.
"""

import copy
import gc
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from esper.blueprint import shipped
from esper.seed import (
    CaptureStats,
    EagerReason,
    Seed,
    SeedBank,
    Site,
    capture_due,
    find_sites,
    merge,
)
from esper.seed.cuda import PASSES_BEFORE_CAPTURE
from esper.topics.models import SiteKind
from tests.seed.kernels import awaken, kernel_for

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

SIZES = {
    SiteKind.FEATURE_MAP: (8, 12, 12),
    SiteKind.SEQUENCE: (10, 16),
    SiteKind.VECTOR: (16,),
}
CASES = [(blueprint.blueprint_id, kind) for blueprint in shipped() for kind in blueprint.kinds]
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}
CLOSE = {"fp32": (1e-4, 1e-5), "bf16": (4e-2, 4e-2)}
"""Relative and absolute tolerance: sums have another order, and alpha is multiplied first."""

Gradients = dict[str, Tensor]


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    """Compute fp32 in full precision, without tf32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


class Model(nn.Module):
    """A layer between two others, so that the input of the site has a gradient."""

    def __init__(self, kind: SiteKind) -> None:
        super().__init__()
        size = SIZES[kind]
        conv = kind is SiteKind.FEATURE_MAP
        width = size[0] if conv else size[-1]
        self.before = nn.Conv2d(width, width, 1) if conv else nn.Linear(width, width)
        self.site = nn.Conv2d(width, width, 3, padding=1) if conv else nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the site's output."""
        y: Tensor = self.site(torch.tanh(self.before(x)))
        return y


def a_model(kind: SiteKind, *blueprints: str) -> tuple[Model, Site]:
    """Return a model on the GPU with planted kernels of nonzero output, and its site."""
    torch.manual_seed(0)
    model = Model(kind).cuda()
    site = find_sites(model, ["site"], a_batch(kind, 1), slots=4)["site"]
    for slot, blueprint in enumerate(blueprints):
        plant(site, slot, blueprint)
    return model, site


def plant(site: Site, slot: int, blueprint: str) -> Seed:
    """Plant a kernel with weights as after training."""
    kernel = kernel_for(blueprint, site.signature)
    awaken(kernel, slot)
    site.plant(slot, seed := Seed(kernel, 0.5).cuda())
    return seed


def a_batch(kind: SiteKind, count: int = 4, seed: int = 0) -> Tensor:
    """Inputs (count, ..) on the GPU."""
    return torch.randn(count, *SIZES[kind], generator=torch.Generator().manual_seed(seed)).cuda()


def a_pass(model: nn.Module, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Run a forward and backward pass, which adds to the gradients; return the output."""
    with torch.autocast("cuda", dtype, enabled=dtype is not None):
        y = model(x)
    y.float().square().mean().backward()
    return y.detach()


def gradients(model: nn.Module) -> Gradients:
    """Return copies of all gradients and clear them in the model."""
    found = {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    model.zero_grad(set_to_none=True)
    return found


def settle(model: nn.Module, x: Tensor, dtype: torch.dtype | None = None) -> None:
    """Run a model until its graphs are captured."""
    for _ in range(PASSES_BEFORE_CAPTURE):
        a_pass(model, x, dtype)
        capture_due()
    model.zero_grad(set_to_none=True)


def stats(site: Site) -> CaptureStats:
    """Return the counts of passes."""
    assert site.bank is not None
    return site.bank.capture_stats


def eagerly(
    model: nn.Module, x: Tensor, dtype: torch.dtype | None = None
) -> tuple[Tensor, Gradients]:
    """Return output and gradients of a copy that never replays."""
    twin = copy.deepcopy(model)
    for module in twin.modules():
        if isinstance(module, SeedBank):
            module.graphs.enabled = False
    y = a_pass(twin, x, dtype)
    return y, gradients(twin)


def assert_same(model: nn.Module, x: Tensor, precision: str = "fp32") -> None:
    """Assert that a pass gives the same as the eager copy."""
    dtype = PRECISIONS[precision]
    rtol, atol = CLOSE[precision]
    expected, wanted = eagerly(model, x, dtype)
    torch.testing.assert_close(a_pass(model, x, dtype), expected, rtol=rtol, atol=atol)
    found = gradients(model)
    assert found.keys() == wanted.keys()
    for name, grad in found.items():
        scale = max(1.0, float(wanted[name].abs().max()))
        torch.testing.assert_close(grad, wanted[name], rtol=rtol, atol=atol * scale, msg=name)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("name", "kind"), [case for case in CASES if case[0] != "dropout-mlp"])
def test_a_replay_computes_the_same_as_the_eager_pass(
    name: str, kind: SiteKind, precision: str
) -> None:
    model, site = a_model(kind, name)
    settle(model, a_batch(kind), PRECISIONS[precision])
    assert stats(site).captures == 1
    assert_same(model, a_batch(kind, seed=1), precision)
    assert stats(site).replays == 1


def test_several_kernels_on_side_streams_are_as_exact() -> None:
    names = ("conv-bottleneck", "residual-conv3x3", "pointwise-mix", "squeeze-excite")
    model, site = a_model(SiteKind.FEATURE_MAP, *names)
    settle(model, a_batch(SiteKind.FEATURE_MAP))
    for seed in range(5):
        assert_same(model, a_batch(SiteKind.FEATURE_MAP, seed=seed))
    assert stats(site).replays == 5


FMAP = SiteKind.FEATURE_MAP


def settled(*names: str) -> tuple[Model, Site]:
    """Return a model of images whose site replays, and the site."""
    model, site = a_model(FMAP, *(names or ("conv-bottleneck", "residual-conv3x3")))
    settle(model, a_batch(FMAP))
    assert stats(site).captures == 1
    return model, site


def test_gradients_add_up_over_several_passes() -> None:
    model, _ = settled()
    wanted: Gradients = {}
    for seed in range(3):
        for name, grad in eagerly(model, a_batch(FMAP, seed=seed))[1].items():
            wanted[name] = wanted.get(name, 0) + grad
    for seed in range(3):
        a_pass(model, a_batch(FMAP, seed=seed))
    for name, grad in gradients(model).items():
        torch.testing.assert_close(grad, wanted[name], rtol=1e-4, atol=1e-4, msg=name)


def test_gradients_and_outputs_are_the_callers_own() -> None:
    model, _ = settled()
    first = a_pass(model, a_batch(FMAP, seed=1))
    kept, grads = first.clone(), [weight.grad for weight in model.parameters()]
    copies = [grad.clone() for grad in grads if grad is not None]
    model.zero_grad(set_to_none=True)
    a_pass(model, a_batch(FMAP, seed=2))
    assert torch.equal(first, kept)
    assert all(torch.equal(*pair) for pair in zip(grads, copies, strict=True))


def test_a_graph_is_captured_while_the_loss_of_the_step_is_alive() -> None:
    model, site = a_model(FMAP, "conv-bottleneck")
    for _ in range(PASSES_BEFORE_CAPTURE):
        loss = model(a_batch(FMAP)).square().mean()
        loss.backward()
        capture_due()
    assert stats(site).captures == 1, stats(site).fallbacks
    model.zero_grad()
    assert_same(model, a_batch(FMAP, seed=3))


def test_a_second_forward_before_the_backward_is_eager_and_right() -> None:
    model, site = settled()
    x1, x2 = a_batch(FMAP, seed=1), a_batch(FMAP, seed=2)
    wanted = {}
    for x in (x1, x2):
        for name, grad in eagerly(model, x)[1].items():
            wanted[name] = wanted.get(name, 0) + grad
    (model(x1).square().mean() + model(x2).square().mean()).backward()
    assert stats(site).fallbacks[EagerReason.IN_USE] == 1
    for name, grad in gradients(model).items():
        torch.testing.assert_close(grad, wanted[name], rtol=1e-4, atol=1e-4, msg=name)


def test_a_graph_that_autograd_keeps_can_be_used_again() -> None:
    model, site = settled()
    wanted = eagerly(model, x := a_batch(FMAP, seed=1))[1]
    loss = model(x).square().mean()
    loss.backward(retain_graph=True)
    model(a_batch(FMAP, seed=2))
    assert stats(site).fallbacks[EagerReason.IN_USE] == 1
    loss.backward()
    for name, grad in gradients(model).items():
        torch.testing.assert_close(grad, 2 * wanted[name], rtol=1e-4, atol=1e-4, msg=name)


def test_a_second_derivative_is_right() -> None:
    def penalty(model: nn.Module, x: Tensor) -> Gradients:
        (grad,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        grad.square().sum().backward()
        return gradients(model)

    model, site = settled("residual-conv3x3")
    x = a_batch(FMAP, seed=1).requires_grad_()
    twin = copy.deepcopy(model)
    twin.site.esper_seeds.graphs.enabled = False
    replays = stats(site).replays
    found, wanted = penalty(model, x), penalty(twin, x)
    assert stats(site).replays == replays + 1
    for name, grad in found.items():
        torch.testing.assert_close(
            grad, wanted[name], rtol=1e-3, atol=1e-3 * float(grad.abs().max())
        )


def test_weights_and_alphas_change_without_a_new_capture() -> None:
    model, site = settled()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(4):
        a_pass(model, a_batch(FMAP, seed=step))
        optimizer.step()
        optimizer.zero_grad()
        site.seed(0).alpha.fill_(0.1 * step)
        capture_due()
    assert_same(model, a_batch(FMAP, seed=9))
    assert stats(site).captures == 1


def test_a_new_kernel_runs_eagerly_first_and_is_captured_when_settled() -> None:
    model, site = settled("conv-bottleneck")
    plant(site, 1, "pointwise-mix")
    replays = stats(site).replays
    assert_same(model, a_batch(FMAP, seed=1))
    assert stats(site).replays == replays
    settle(model, a_batch(FMAP))
    assert_same(model, a_batch(FMAP, seed=2))
    site.remove(0)
    settle(model, a_batch(FMAP))
    assert_same(model, a_batch(FMAP, seed=3))
    assert stats(site).captures == 3


@pytest.mark.parametrize(
    ("kind", "blueprint"),
    [
        (SiteKind.VECTOR, "low-rank-skip"),
        (SiteKind.SEQUENCE, "low-rank-skip-wide"),
        (SiteKind.FEATURE_MAP, "identity"),
    ],
)
def test_a_kernel_that_was_replayed_beside_its_layer_merges_into_it(
    kind: SiteKind, blueprint: str
) -> None:
    model, site = a_model(kind, blueprint)
    settle(model, a_batch(kind))
    before = a_pass(model, a_batch(kind))
    assert stats(site).replays == 1
    merge(site, 0)
    assert site.bank is None
    after = a_pass(model, a_batch(kind))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6 * float(before.abs().max()))


def test_dropped_graphs_release_their_memory() -> None:
    model, site = settled()
    used = []
    for _ in range(6):
        plant(site, 2, "pointwise-mix")
        settle(model, a_batch(FMAP))
        site.remove(2)
        settle(model, a_batch(FMAP))
        torch.cuda.synchronize()
        gc.collect()  # Cycles, also of earlier tests, would be freed at a time of Python's choice.
        used.append(torch.cuda.memory_allocated())
    assert used[-1] <= used[1]


def test_replaced_weights_run_eagerly_and_are_captured_again() -> None:
    model, site = settled()
    with torch.no_grad():
        model.site.weight.data = model.site.weight.data * 2
    assert_same(model, a_batch(FMAP, seed=1))
    assert stats(site).fallbacks[EagerReason.OTHER_WEIGHTS] == 1
    settle(model, a_batch(FMAP))
    assert_same(model, a_batch(FMAP, seed=2))
    assert stats(site).captures == 2


@pytest.mark.parametrize("reentrant", [False, True])
def test_under_gradient_checkpointing_a_site_is_eager_and_right(reentrant: bool) -> None:
    model, site = settled()
    wanted = eagerly(model, x := a_batch(FMAP, seed=1).requires_grad_())[1]
    replays = stats(site).replays
    checkpoint(model, x, use_reentrant=reentrant).square().mean().backward()
    assert stats(site).replays == replays
    for name, grad in gradients(model).items():
        torch.testing.assert_close(grad, wanted[name], rtol=1e-4, atol=1e-4, msg=name)


def test_fp16_with_a_gradient_scaler_trains() -> None:
    model, site = settled()
    scaler, optimizer = torch.amp.GradScaler("cuda"), torch.optim.SGD(model.parameters(), lr=1e-3)
    for step in range(PASSES_BEFORE_CAPTURE + 2):
        with torch.autocast("cuda", torch.float16):
            loss = model(a_batch(FMAP, seed=step)).float().square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        capture_due()
    assert stats(site).captures == 2
    assert all(bool(weight.isfinite().all()) for weight in model.parameters())


def test_images_stay_channels_last() -> None:
    model, site = a_model(FMAP, "conv-bottleneck")
    model.to(memory_format=torch.channels_last)
    x = a_batch(FMAP).to(memory_format=torch.channels_last)
    settle(model, x)
    y = a_pass(model, x)
    assert stats(site).replays == 1
    assert y.is_contiguous(memory_format=torch.channels_last)
    for weight in model.parameters():
        assert weight.grad is not None
        assert weight.grad.stride() == weight.stride()


def test_no_step_waits_for_the_gpu() -> None:
    model, site = a_model(FMAP, "conv-bottleneck", "residual-conv3x3")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    x = a_batch(FMAP)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(PASSES_BEFORE_CAPTURE + 3):
            model(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            capture_due()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert stats(site).replays == 3


def test_a_capture_does_not_change_the_random_number_state() -> None:
    model, _ = a_model(SiteKind.VECTOR, "dropout-mlp")
    for _ in range(PASSES_BEFORE_CAPTURE):
        a_pass(model, a_batch(SiteKind.VECTOR))
    before = torch.cuda.get_rng_state()
    capture_due()
    assert torch.equal(torch.cuda.get_rng_state(), before)
    first, second = (a_pass(model, a_batch(SiteKind.VECTOR)) for _ in range(2))
    assert not torch.equal(first, second)


def test_training_goes_on_without_memory_for_a_capture() -> None:
    model, site = a_model(FMAP, "conv-bottleneck")
    x = a_batch(FMAP, 4096)
    for _ in range(PASSES_BEFORE_CAPTURE):
        a_pass(model, x)
    model.zero_grad()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(
        (torch.cuda.memory_reserved() + 4 * x.nbytes) / total
    )
    try:
        capture_due()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert stats(site).captures == 0
    assert_same(model, x)
    assert stats(site).fallbacks[EagerReason.OUT_OF_MEMORY] == 1
    side = torch.cuda.Stream()
    used = torch.cuda.memory_allocated()
    torch.empty(1 << 24, device="cuda").record_stream(side)
    torch.cuda.synchronize()
    torch.empty(1 << 10, device="cuda")
    assert torch.cuda.memory_allocated() <= used + 1024, "the allocator assumes a running capture"
