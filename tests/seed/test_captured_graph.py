"""Parts of a captured graph, on the CPU: stand-ins for weights, fused sums, packed gradients."""

import copy

import pytest
import torch
from torch import Tensor, nn

from esper.blueprint import shipped
from esper.seed import Seed, find_sites
from esper.seed.cuda import NO_SIDE_STREAMS, CapturedRegion
from esper.seed.cuda.captured_tensors import captured_tensors, tensors_replaced
from esper.seed.cuda.fused_sum import fan_out, fused_sum, sum_terms
from esper.seed.cuda.packed_gradients import PackedGradients
from esper.topics.models import SiteKind
from tests.seed.kernels import awaken, kernel_for

SIZES = {
    SiteKind.FEATURE_MAP: (6, 5, 5),
    SiteKind.SEQUENCE: (5, 12),
    SiteKind.VECTOR: (12,),
}
CASES = [(blueprint.blueprint_id, kind) for blueprint in shipped() for kind in blueprint.kinds]


def a_region(kind: SiteKind, *blueprints: str) -> tuple[CapturedRegion, Tensor]:
    """Return a layer with kernels of nonzero output, and a batch for it."""
    torch.manual_seed(0)
    size = SIZES[kind]
    conv = kind is SiteKind.FEATURE_MAP
    layer = nn.Conv2d(size[0], size[0], 3, padding=1) if conv else nn.Linear(size[-1], size[-1])
    x = torch.randn(3, *size, requires_grad=True)
    site = find_sites(nn.Sequential(layer), ["0"], x.detach()[:1], slots=4)["0"]
    seeds = []
    for number, blueprint in enumerate(blueprints, start=1):
        kernel = kernel_for(blueprint, site.signature)
        awaken(kernel, number)
        seeds.append(Seed(kernel, 0.3 * number).eval())
    return CapturedRegion(layer, layer.forward, tuple(seeds)), x


def fused(region: CapturedRegion, x: Tensor) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Return the output and all gradients as a graph computes them."""
    tensors = tuple(captured_tensors(region))
    stand_ins = [
        captured.tensor.detach().requires_grad_(captured.requires_grad) for captured in tensors
    ]
    with tensors_replaced(tensors, stand_ins, fused=True):
        outputs = region.outputs([x], NO_SIDE_STREAMS, fan_out)
        y = torch.stack(sum_terms(region.seeds, *outputs)).sum(0)
    wanted = [x, *(leaf for leaf in stand_ins if leaf.requires_grad)]
    return y, torch.autograd.grad(y.square().mean(), wanted, allow_unused=True)


def sequential(region: CapturedRegion, x: Tensor) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Return the same, computed sequentially."""
    y = region.call([x], NO_SIDE_STREAMS)
    wanted = [
        x,
        *(captured.tensor for captured in captured_tensors(region) if captured.requires_grad),
    ]
    return y, torch.autograd.grad(y.square().mean(), wanted, allow_unused=True)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_multiplying_alpha_into_the_last_weights_computes_the_same(
    name: str, kind: SiteKind
) -> None:
    region, x = a_region(kind, name, name)
    (y, found), (expected, wanted) = fused(region, x), sequential(region, x)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_modules_have_their_original_tensors_after_an_error() -> None:
    region, _ = a_region(SiteKind.FEATURE_MAP, "conv-bottleneck", "residual-conv3x3")
    tensors = tuple(captured_tensors(region))
    with (
        pytest.raises(ZeroDivisionError),
        tensors_replaced(
            tensors, [torch.zeros_like(captured.tensor) for captured in tensors], fused=True
        ),
    ):
        raise ZeroDivisionError
    assert all(captured.is_current() for captured in tensors)
    assert [captured.tensor for captured in captured_tensors(region)] == [
        captured.tensor for captured in tensors
    ]


@pytest.mark.parametrize("change", ["data", "moved", "frozen"])
def test_a_replaced_moved_or_frozen_weight_is_not_current(change: str) -> None:
    region, _ = a_region(SiteKind.VECTOR, "linear-bottleneck")
    tensors = tuple(captured_tensors(region))
    weight = region.layer.weight
    assert isinstance(weight, nn.Parameter)
    assert all(captured.is_current() for captured in tensors)
    match change:
        case "data":
            weight.data = weight.data.clone()
        case "moved":
            region.layer.weight = copy.deepcopy(weight)
        case "frozen":
            weight.requires_grad_(False)
    assert [captured.name for captured in tensors if not captured.is_current()] == ["weight"]


def test_a_weight_updated_by_an_optimizer_stays_current() -> None:
    region, x = a_region(SiteKind.VECTOR, "linear-bottleneck")
    tensors = tuple(captured_tensors(region))
    optimizer = torch.optim.SGD(
        [captured.tensor for captured in tensors if captured.requires_grad], lr=0.1
    )
    sequential(region, x)
    region.call([x], NO_SIDE_STREAMS).sum().backward()
    optimizer.step()
    region.seeds[0].alpha.fill_(0.9)
    assert all(captured.is_current() for captured in tensors)


def test_packed_gradients_are_unpacked_as_copies_in_the_layout_of_their_weights() -> None:
    weights = [
        torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last),
        torch.randn(5, 7),
        torch.randn(4, 3, 1, 1).to(memory_format=torch.channels_last),
        torch.randn(6).to(torch.float64),
        torch.randn(2, 2),
    ]
    grads: list[Tensor | None] = [torch.randn_like(weight) for weight in weights]
    grads[0] = torch.randn(4, 3, 3, 3, dtype=torch.float32)
    grads[4] = None
    packed = PackedGradients(grads, weights)
    first, second = packed.unpack(), packed.unpack()
    assert first[4] is None
    for grad, weight, copy1, copy2 in zip(grads[:4], weights, first, second, strict=False):
        assert copy1 is not None
        assert copy2 is not None
        assert torch.equal(copy1, grad)
        assert copy1.stride() == weight.stride()
        assert copy1.data_ptr() != copy2.data_ptr()


@pytest.mark.parametrize("count", [1, 2, 3, 8, 9, 20])
def test_a_fused_sum_is_the_sum_of_all_its_terms(count: int) -> None:
    terms = [torch.full((2, 3), 2.0**power) for power in range(count)]
    assert torch.equal(fused_sum(terms), torch.full((2, 3), 2.0**count - 1))
