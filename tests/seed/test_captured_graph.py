"""What a recording is made of, on the CPU: stand-ins for weights, fused sums, packed gradients."""

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
CASES = [(each.blueprint_id, kind) for each in shipped() for kind in each.kinds]


def a_region(kind: SiteKind, *blueprints: str) -> tuple[CapturedRegion, Tensor]:
    """A layer with kernels that add something, and a batch for it."""
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
    """The output and all gradients as a graph computes them."""
    tensors = tuple(captured_tensors(region))
    stand_ins = [each.tensor.detach().requires_grad_(each.requires_grad) for each in tensors]
    with tensors_replaced(tensors, stand_ins, fused=True):
        outputs = region.outputs([x], NO_SIDE_STREAMS, fan_out)
        y = torch.stack(sum_terms(region.seeds, *outputs)).sum(0)
    wanted = [x, *(each for each in stand_ins if each.requires_grad)]
    return y, torch.autograd.grad(y.square().mean(), wanted, allow_unused=True)


def sequential(region: CapturedRegion, x: Tensor) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """The same, one kernel after the other."""
    y = region.call([x], NO_SIDE_STREAMS)
    wanted = [x, *(each.tensor for each in captured_tensors(region) if each.requires_grad)]
    return y, torch.autograd.grad(y.square().mean(), wanted, allow_unused=True)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_alpha_in_the_last_weights_computes_the_same(name: str, kind: SiteKind) -> None:
    region, x = a_region(kind, name, name)
    (y, found), (expected, wanted) = fused(region, x), sequential(region, x)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_modules_have_their_own_tensors_again_after_an_error() -> None:
    region, _ = a_region(SiteKind.FEATURE_MAP, "conv-bottleneck", "residual-conv3x3")
    tensors = tuple(captured_tensors(region))
    with (
        pytest.raises(ZeroDivisionError),
        tensors_replaced(tensors, [torch.zeros_like(each.tensor) for each in tensors], fused=True),
    ):
        raise ZeroDivisionError
    assert all(each.is_current() for each in tensors)
    assert [each.tensor for each in captured_tensors(region)] == [each.tensor for each in tensors]


@pytest.mark.parametrize("change", ["data", "moved", "frozen"])
def test_a_weight_that_is_another_is_noticed(change: str) -> None:
    region, _ = a_region(SiteKind.VECTOR, "linear-bottleneck")
    tensors = tuple(captured_tensors(region))
    weight = region.layer.weight
    assert isinstance(weight, nn.Parameter)
    assert all(each.is_current() for each in tensors)
    match change:
        case "data":
            weight.data = weight.data.clone()
        case "moved":
            region.layer.weight = copy.deepcopy(weight)
        case "frozen":
            weight.requires_grad_(False)
    assert [each.name for each in tensors if not each.is_current()] == ["weight"]


def test_a_weight_that_an_optimizer_changed_is_the_same_one() -> None:
    region, x = a_region(SiteKind.VECTOR, "linear-bottleneck")
    tensors = tuple(captured_tensors(region))
    optimizer = torch.optim.SGD([each.tensor for each in tensors if each.requires_grad], lr=0.1)
    sequential(region, x)
    region.call([x], NO_SIDE_STREAMS).sum().backward()
    optimizer.step()
    region.seeds[0].alpha.fill_(0.9)
    assert all(each.is_current() for each in tensors)


def test_packed_gradients_come_back_as_copies_in_the_layout_of_their_weights() -> None:
    weights = [
        torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last),
        torch.randn(5, 7),
        torch.randn(4, 3, 1, 1).to(memory_format=torch.channels_last),
        torch.randn(6).to(torch.float64),
        torch.randn(2, 2),
    ]
    grads: list[Tensor | None] = [torch.randn_like(each) for each in weights]
    grads[0] = torch.randn(4, 3, 3, 3, dtype=torch.float32)
    grads[4] = None
    packed = PackedGradients(grads, weights)
    first, second = packed.unpack(), packed.unpack()
    assert first[4] is None
    for grad, weight, one, other in zip(grads[:4], weights, first, second, strict=False):
        assert one is not None
        assert other is not None
        assert torch.equal(one, grad)
        assert one.stride() == weight.stride()
        assert one.data_ptr() != other.data_ptr()


@pytest.mark.parametrize("count", [1, 2, 3, 8, 9, 20])
def test_a_total_is_the_sum_of_all_its_terms(count: int) -> None:
    terms = [torch.full((2, 3), 2.0**power) for power in range(count)]
    assert torch.equal(fused_sum(terms), torch.full((2, 3), 2.0**count - 1))
