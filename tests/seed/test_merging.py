"""Merging: a kernel merges into its layer if the layer then computes the same as both."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from esper.blueprint import shipped
from esper.seed import MergeRefused, Site, find_sites, merge
from esper.seed.seed import H, X
from esper.topics.models import SiteKind
from tests.seed.chains import OFFSET, SCALE, Op, chain, conv, linear, lone_site, plant_chain
from tests.seed.kernels import awaken, plant

WITHIN = {torch.float32: 1e-6, torch.float64: 1e-12}
"""How far outputs and gradients may be off, relative to the largest."""

Make = Callable[[], nn.Module]


class Case(NamedTuple):
    """A layer, and one sample for it."""

    make: Make
    sample: tuple[int, ...]


LINEARS = {
    "vector": Case(lambda: nn.Linear(12, 16), (12,)),
    "sequence": Case(lambda: nn.Linear(12, 16), (5, 12)),
    "without bias": Case(lambda: nn.Linear(12, 16, bias=False), (12,)),
}
SAME_SIZE = {
    "3x3": Case(lambda: nn.Conv2d(3, 8, 3, padding=1), (3, 6, 5)),
    "1x1": Case(lambda: nn.Conv2d(3, 8, 1), (3, 6, 5)),
    "1x1 valid": Case(lambda: nn.Conv2d(3, 8, 1, padding="valid"), (3, 6, 5)),
    "same": Case(lambda: nn.Conv2d(3, 8, (5, 3), padding="same", dilation=2), (3, 9, 7)),
    "dilated": Case(lambda: nn.Conv2d(3, 8, (3, 5), padding=(2, 2), dilation=(2, 1)), (3, 7, 6)),
    "reflecting": Case(lambda: nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"), (3, 6, 6)),
    "one position": Case(lambda: nn.Conv2d(3, 8, 3, padding=1), (3, 1, 1)),
    "channels last": Case(
        lambda: nn.Conv2d(3, 8, 3, padding=1).to(memory_format=torch.channels_last), (3, 6, 5)
    ),
    "without bias": Case(lambda: nn.Conv2d(3, 8, 3, padding=1, bias=False), (3, 6, 5)),
}
CONVS = SAME_SIZE | {
    "strided": Case(lambda: nn.Conv2d(3, 8, 3, stride=2, padding=1), (3, 8, 6)),
    "not padded": Case(lambda: nn.Conv2d(3, 8, (2, 4)), (3, 6, 7)),
}


def grown(case: Case) -> tuple[Site, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(7, *case.sample)
    return lone_site(case.make(), x), x


def seen(site: Site, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the output, and the input's gradient under a nonlinear loss."""
    x = x.clone().requires_grad_()
    y = site.layer(x)
    y.square().sum().backward()
    assert x.grad is not None
    return y.detach(), x.grad


def assert_merges(site: Site, x: Tensor, slot: int = 0) -> None:
    """Merge a slot's kernel and assert that outputs and gradients are unchanged."""
    before = seen(site, x)
    without = type(site.layer).forward(site.layer, x)
    assert not torch.allclose(before[0], without, rtol=1e-3), "the kernel adds nothing"
    parameters = dict(site.layer.named_parameters(recurse=False))
    addresses = {name: parameter.data_ptr() for name, parameter in parameters.items()}
    seed = site.seed(slot)
    assert merge(site, slot) is seed
    for found, expected in zip(seen(site, x), before, strict=True):
        within = WITHIN[x.dtype] * float(expected.abs().max())
        torch.testing.assert_close(found, expected, rtol=0, atol=within)
    after = dict(site.layer.named_parameters(recurse=False))
    assert all(after[name] is parameter for name, parameter in parameters.items())
    assert {name: parameter.data_ptr() for name, parameter in after.items()} == addresses
    assert slot not in {at.index for at, _ in site.seeds()}


def in_double(site: Site, x: Tensor) -> tuple[Site, Tensor]:
    site.layer.double()
    return site, x.double()


in_both = pytest.mark.parametrize("dtype", WITHIN, ids=str)

SHIPPED = [
    *(("low-rank-skip", case) for case in LINEARS.items()),
    *(("low-rank-skip-wide", case) for case in LINEARS.items()),
    *(("identity", case) for case in (LINEARS | CONVS).items()),
]


@in_both
@pytest.mark.parametrize(
    ("blueprint_id", "case"),
    [(blueprint_id, case) for blueprint_id, (_, case) in SHIPPED],
    ids=[f"{blueprint_id} at {name}" for blueprint_id, (name, _) in SHIPPED],
)
def test_an_affine_shipped_blueprint_merges_into_the_layer(
    blueprint_id: str, case: Case, dtype: torch.dtype
) -> None:
    site, x = grown(case)
    awaken(plant(site, 0, blueprint_id, alpha=0.6).kernel)
    if dtype is torch.float64:
        site, x = in_double(site, x)
    assert_merges(site, x)
    assert site.bank is None
    assert "forward" not in vars(site.layer)


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        (LINEARS["vector"], SiteKind.VECTOR),
        (LINEARS["sequence"], SiteKind.SEQUENCE),
        (SAME_SIZE["3x3"], SiteKind.FEATURE_MAP),
    ],
    ids=["vector", "sequence", "map"],
)
def test_no_other_shipped_blueprint_merges(case: Case, kind: SiteKind) -> None:
    merged = set()
    for blueprint in shipped():
        if kind not in blueprint.kinds:
            continue
        site, _ = grown(case)
        plant(site, 0, blueprint.blueprint_id)
        try:
            merge(site, 0)
        except MergeRefused as refusal:
            assert "is not an affine map of each position" in str(refusal)
        else:
            merged.add(blueprint.blueprint_id)
    paths = set() if kind is SiteKind.FEATURE_MAP else {"low-rank-skip", "low-rank-skip-wide"}
    assert merged == paths | {"identity"}


@in_both
@pytest.mark.parametrize("start", [X, H], ids=["reads x", "reads h"])
@pytest.mark.parametrize("case", SAME_SIZE.values(), ids=SAME_SIZE)
def test_pointwise_convolutions_merge_into_a_convolution(
    case: Case, start: int, dtype: torch.dtype
) -> None:
    site, x = grown(case)
    bias = site.layer.bias is not None
    plant_chain(site, 0, chain(site, start, conv(4, bias), SCALE, conv(8, bias)))
    if dtype is torch.float64:
        site, x = in_double(site, x)
    assert_merges(site, x)


@pytest.mark.parametrize("case", CONVS.values(), ids=CONVS)
def test_a_kernel_that_reads_h_merges_for_any_stride_and_padding(case: Case) -> None:
    site, x = in_double(*grown(case))
    plant_chain(site, 0, chain(site, H, conv(5, False), conv(8, False)).double())
    assert_merges(site, x)


@pytest.mark.parametrize("op", ["conv2d_as_product", "conv2d_at_one"])
def test_a_pointwise_convolution_merges_in_its_cpu_form(op: str) -> None:
    site, x = in_double(*grown(SAME_SIZE["one position" if op == "conv2d_at_one" else "3x3"]))
    plant_chain(site, 0, chain(site, X, (op, {"out": 8, "bias": True})).double())
    assert_merges(site, x)


def chains(middle: tuple[Op, ...], product: Callable[[int, bool], Op]) -> st.SearchStrategy[Any]:
    products = st.builds(product, st.integers(1, 6), st.booleans())
    return st.lists(st.sampled_from(middle) | products, max_size=5)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), start=st.sampled_from([X, H]), alpha=st.floats(0.01, 1))
def test_any_chain_of_affine_ops_merges_and_computes_the_same(
    data: st.DataObject, start: int, alpha: float
) -> None:
    over_maps = data.draw(st.booleans())
    cases, product = (SAME_SIZE, conv) if over_maps else (LINEARS, linear)
    biased = [case for name, case in cases.items() if name != "without bias"]
    site, x = in_double(*grown(data.draw(st.sampled_from(biased))))
    ops = data.draw(chains((SCALE, OFFSET), product))
    last = product(site.signature.h[0 if over_maps else -1], data.draw(st.booleans()))
    plant_chain(site, 0, chain(site, start, *ops, last).double(), alpha).double()
    assert_merges(site, x)


def test_without_memory_on_the_device_the_sum_is_computed_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site, x = grown(LINEARS["vector"])
    awaken(plant(site, 0, "low-rank-skip").kernel)
    make = torch.eye
    refused: list[object] = []

    def exhausted_once(*args: Any, **kwargs: Any) -> Tensor:
        if not refused:
            refused.append(kwargs["device"])
            raise torch.OutOfMemoryError("no memory left")
        return make(*args, **kwargs)

    monkeypatch.setattr(torch, "eye", exhausted_once)
    assert_merges(site, x)
    assert refused


# -- beside other seeds -------------------------------------------------------------------------


def test_another_seed_that_reads_x_is_unchanged_by_a_merge() -> None:
    site, x = grown(LINEARS["vector"])
    awaken(plant(site, 0, "low-rank-skip").kernel)
    awaken(plant(site, 1, "identity").kernel, seed=1)
    assert_merges(site, x, slot=1)
    assert [slot.index for slot, _ in site.seeds()] == [0]
    assert_merges(site, x, slot=0)


# -- where the kernel stays ---------------------------------------------------------------------


def a_linear(layer: nn.Module | None = None) -> Site:
    torch.manual_seed(0)
    site = lone_site(layer or nn.Linear(6, 6), torch.randn(2, 6))
    plant_chain(site, 0, chain(site, X, linear(3), linear(6)))
    return site


def a_conv(layer: nn.Conv2d, start: int, *ops: Op, size: int = 6) -> Site:
    torch.manual_seed(0)
    site = lone_site(layer, torch.randn(2, 4, size, size))
    plant_chain(site, 0, chain(site, start, *ops))
    return site


class MyLinear(nn.Linear):
    """A subclass of a layer, which may compute anything."""


class Block(nn.Module):
    """A layer with one inside."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.inner(x)
        return y


def changed(change: Callable[[nn.Linear], object]) -> Site:
    """Return a site whose layer is changed after the kernel was planted."""
    site = a_linear()
    assert isinstance(site.layer, nn.Linear)
    change(site.layer)
    return site


def pruned(layer: nn.Linear, name: str) -> None:
    prune.l1_unstructured(layer, name, 0.3)  # type: ignore[no-untyped-call]


def in_a_host(tie: Callable[[nn.Linear, nn.Linear], object]) -> Site:
    torch.manual_seed(0)
    host = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
    one, _, other = host
    assert isinstance(one, nn.Linear)
    assert isinstance(other, nn.Linear)
    tie(one, other)
    site = find_sites(host, ["0"], torch.randn(1, 6), slots=3)["0"]
    plant_chain(site, 0, chain(site, X, linear(6)))
    return site


def tied_by_weight(one: nn.Linear, other: nn.Linear) -> None:
    other.weight = one.weight


def tied_by_memory(one: nn.Linear, other: nn.Linear) -> None:
    other.bias = nn.Parameter(one.bias.detach())


def tied_to_a_buffer(one: nn.Linear, other: nn.Linear) -> None:
    other.register_buffer("twin", one.weight.detach()[:2])


def beside(other: str) -> Site:
    site = a_linear()
    plant(site, 2, other)
    return site


def huge() -> Site:
    site = a_linear()
    with torch.no_grad():
        site.layer.get_parameter("weight").fill_(1e25)
        site.remove(0)
        plant_chain(site, 0, chain(site, H, SCALE)).kernel.get_parameter("n0.weight").fill_(1e25)
    return site


def no_bias_for_a_constant() -> Site:
    return a_linear(nn.Linear(6, 6, bias=False))


STAYS: dict[str, tuple[Callable[[], Site], str]] = {
    "a layer of the user's own": (lambda: a_linear(MyLinear(6, 6)), "is a MyLinear, not an"),
    "a block": (lambda: a_linear(Block()), "is a Block, not an"),
    "weight normalisation": (
        lambda: changed(parametrizations.weight_norm),
        "is a ParametrizedLinear, not an",
    ),
    "a pruned weight": (
        lambda: changed(lambda layer: pruned(layer, "weight")),
        "the weight of 0 is computed from other parameters",
    ),
    "a pruned bias": (
        lambda: changed(lambda layer: pruned(layer, "bias")),
        "the weight of 0 is computed from other parameters",
    ),
    "a frozen weight": (
        lambda: changed(lambda layer: layer.weight.requires_grad_(False)),
        "0 is frozen",
    ),
    "a frozen bias": (lambda: changed(lambda layer: layer.bias.requires_grad_(False)), "frozen"),
    "a weight that is elsewhere too": (lambda: in_a_host(tied_by_weight), "shares a parameter"),
    "a bias whose memory is": (lambda: in_a_host(tied_by_memory), "shares a parameter"),
    "a buffer that sees the weight": (lambda: in_a_host(tied_to_a_buffer), "shares a parameter"),
    "bfloat16": (
        lambda: changed(lambda layer: layer.bfloat16()),
        "0 is in torch.bfloat16, which rounds a sum too much",
    ),
    "another seed that reads h": (lambda: beside("identity"), "another seed of 0 reads h"),
    "another that reads both": (lambda: beside("film"), "another seed of 0 reads h"),
    "a constant without a bias": (no_bias_for_a_constant, "the sum has a bias, and 0 has no bias"),
    "values that overflow": (huge, "not finite in torch.float32"),
    "a convolution in groups": (
        lambda: a_conv(nn.Conv2d(4, 4, 3, padding=1, groups=2), H, conv(4)),
        "0 has 2 groups",
    ),
    "a kernel over neighbours": (
        lambda: a_conv(nn.Conv2d(4, 4, 3, padding=1), X, conv(4, kernel=3)),
        "conv2d .n0. is not an affine map of each position",
    ),
    "a kernel in groups": (
        lambda: a_conv(nn.Conv2d(4, 4, 3, padding=1), X, conv(4, groups=2), conv(4)),
        "conv2d .n0. is not an affine map of each position",
    ),
    "a product over the width of a map": (
        lambda: a_conv(nn.Conv2d(4, 4, 3, padding=1), H, linear(6)),
        "linear .n0. is not an affine map of each position",
    ),
    "x past a stride": (
        lambda: a_conv(nn.Conv2d(4, 4, 3, stride=2, padding=2), X, conv(4), size=3),
        "no tap that reads x at the position of its output",
    ),
    "x past a stride, of one position": (
        lambda: a_conv(nn.Conv2d(4, 4, 3, stride=2, padding=1), X, conv(4), size=1),
        "no tap that reads x at the position of its output",
    ),
    "x without a middle tap": (
        lambda: a_conv(nn.Conv2d(4, 4, 2, padding=1, dilation=2), X, conv(4)),
        "no tap that reads x at the position of its output",
    ),
}


def batch_for(site: Site) -> Tensor:
    torch.manual_seed(5)
    dtype = next(site.layer.parameters()).dtype
    return torch.randn(5, *site.signature.x, dtype=dtype)


def assert_stays(site: Site, reason: str) -> None:
    x = batch_for(site)
    before = site.layer(x)
    with pytest.raises(MergeRefused, match=reason):
        merge(site, 0)
    assert site.seed(0).kernel is not None
    assert torch.equal(site.layer(x), before)


@pytest.mark.parametrize(("make", "reason"), STAYS.values(), ids=STAYS)
def test_a_refused_merge_keeps_the_kernel_and_changes_no_bit(
    make: Callable[[], Site], reason: str
) -> None:
    assert_stays(make(), reason)


def test_layers_without_shared_parameters_are_not_tied() -> None:
    host = nn.Sequential(nn.Linear(6, 6), nn.LazyLinear(3), nn.Linear(6, 6))
    host[1].register_buffer("sparse", torch.eye(3).to_sparse())
    host[1].forward = lambda x: x
    sites = find_sites(host, ["0", "2"], torch.randn(1, 6), slots=1)
    assert [site.tied for site in sites.values()] == [False, False]
