"""The laws that every shipped blueprint obeys, at sites of any size, and what some of them are."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from esper.blueprint import BlueprintRejected, member, request_for, shipped, shipped_named
from esper.compiler import BlueprintCompiler, Built, KernelOptimizer
from esper.compiler.build import build_kernel
from esper.compiler.initialise import initial_tensors
from esper.kernel import Kernel, KernelPlan, pack, unpack
from esper.topics.models import Blueprint, SiteKind, SiteSignature

VECTOR, SEQUENCE, MAP = SiteKind

SITES = {
    VECTOR: SiteSignature(kind=VECTOR, x=(24,), h=(16,)),
    SEQUENCE: SiteSignature(kind=SEQUENCE, x=(9, 24), h=(9, 16)),
    MAP: SiteSignature(kind=MAP, x=(3, 12, 10), h=(8, 6, 5)),
}
"""A site of each kind whose input and output differ as those of a layer may."""

LOOKS_AHEAD = {
    "self-attention",
    "local-window-attention",
    "linear-attention",
    "token-mixing-mlp",
}
"""Entries for sequences that may read positions after the one they write."""

MIXES_POSITIONS = LOOKS_AHEAD | {
    "causal-self-attention",
    "causal-depthwise-conv",
    "gated-causal-conv",
    "token-shift",
}

ENTRIES = [(entry, kind) for entry in shipped() for kind in entry.kinds]

every_entry = pytest.mark.parametrize(
    ("entry", "kind"),
    [pytest.param(*case, id=f"{case[0].blueprint_id}-{case[1]}") for case in ENTRIES],
)


@st.composite
def sites(draw: st.DrawFn, kind: SiteKind) -> SiteSignature:
    """Sites of sizes that are small, odd and unequal; a sequence keeps its length."""
    features, size = st.integers(2, 40), st.integers(1, 9)
    if kind is VECTOR:
        return SiteSignature(kind=kind, x=(draw(st.integers(1, 40)),), h=(draw(features),))
    if kind is SEQUENCE:
        length = draw(st.integers(2, 9))
        return SiteSignature(
            kind=kind, x=(length, draw(st.integers(1, 40))), h=(length, draw(features))
        )
    channels = st.integers(1, 20)
    x = (draw(channels), draw(size), draw(size))
    return SiteSignature(kind=kind, x=x, h=(draw(channels), draw(st.integers(2, 9)), draw(size)))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small work is not worth the threads that the suite's workers would fight for."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def plan_of(entry: Blueprint, site: SiteSignature) -> KernelPlan:
    return KernelOptimizer().optimize(BlueprintCompiler().compile(entry, site))


def newborn(entry: Blueprint, site: SiteSignature) -> Kernel:
    plan = plan_of(entry, site)
    return Kernel(plan, initial_tensors(plan), sha256="").eval()


def grown(entry: Blueprint, site: SiteSignature) -> Kernel:
    """A kernel none of whose weights is what it was at birth."""
    kernel = newborn(entry, site)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in kernel.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) / 4)
    return kernel


def inputs(site: SiteSignature, batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, h = (torch.randn(batch, *shape, generator=generator) for shape in (site.x, site.h))
    return x, h


# -- the laws -----------------------------------------------------------------------------------


@every_entry
@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_a_newborn_kernel_is_an_exact_no_op(
    entry: Blueprint, kind: SiteKind, data: st.DataObject
) -> None:
    site = data.draw(sites(kind))
    x, h = inputs(site)
    result = newborn(entry, site)(x, h)
    assert result.shape == h.shape
    assert not result.any()


@every_entry
@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_every_parameter_has_gradient_within_three_steps(
    entry: Blueprint, kind: SiteKind, data: st.DataObject
) -> None:
    site = data.draw(sites(kind))
    kernel = newborn(entry, site).train()
    x, h = inputs(site, batch=4)
    parameters = dict(kernel.named_parameters())
    silent = set(parameters)
    for _ in range(3):
        loss = (h + kernel(x, h) - 1).square().mean()
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        with torch.no_grad():
            for name, gradient in zip(parameters, gradients, strict=True):
                parameters[name].sub_(0.01 * gradient.sign())
                silent -= {name} if gradient.any() else set()
    assert not silent


@every_entry
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_kernels_pack_and_run(entry: Blueprint, kind: SiteKind, dtype: str) -> None:
    site = SITES[kind].model_copy(update={"dtype": dtype})
    plan = plan_of(entry, site)
    kernel = Kernel(*unpack(pack(plan, initial_tensors(plan))), "")
    x, h = (value.to(getattr(torch, dtype)) for value in inputs(site))
    result = kernel(x, h)
    assert result.dtype == x.dtype
    result.float().sum().backward()


@every_entry
def test_the_validator_passes_it_where_input_and_output_differ(
    entry: Blueprint, kind: SiteKind
) -> None:
    assert isinstance(build_kernel(request_for(entry, SITES[kind])), Built)


@every_entry
def test_both_ends_of_every_parameter_compile(entry: Blueprint, kind: SiteKind) -> None:
    for name, parameter in entry.parameters.items():
        for value in (parameter.least, parameter.most):
            plan = BlueprintCompiler().compile(member(entry, {name: value}), SITES[kind])
            assert plan.params > 0


@every_entry
def test_a_wide_site_is_no_obstacle(entry: Blueprint, kind: SiteKind) -> None:
    shape = {VECTOR: (1024,), SEQUENCE: (128, 512), MAP: (256, 28, 28)}[kind]
    BlueprintCompiler().compile(entry, SiteSignature(kind=kind, x=shape, h=shape))


# -- which positions read which -----------------------------------------------------------------


def of_kind(kind: SiteKind) -> list[Blueprint]:
    return [entry for entry in shipped() if kind in entry.kinds]


@pytest.mark.parametrize("entry", of_kind(SEQUENCE), ids=lambda entry: entry.blueprint_id)
def test_only_those_said_to_look_ahead_do(entry: Blueprint) -> None:
    site = SITES[SEQUENCE]
    kernel, (x, h) = grown(entry, site), inputs(site)
    later_x, later_h = x.clone(), h.clone()
    later_x[:, 5:] = later_x[:, 5:].flip(-1)
    later_h[:, 5:] = later_h[:, 5:].flip(-1)
    same = torch.allclose(kernel(x, h)[:, :5], kernel(later_x, later_h)[:, :5], atol=1e-6)
    assert same == (entry.blueprint_id not in LOOKS_AHEAD)


@pytest.mark.parametrize("entry", of_kind(SEQUENCE), ids=lambda entry: entry.blueprint_id)
def test_only_those_said_to_mix_positions_do(entry: Blueprint) -> None:
    site = SITES[SEQUENCE]
    kernel, (x, h) = grown(entry, site), inputs(site)
    earlier_h = h.clone()
    earlier_h[:, 3] = h[:, 3].flip(-1)
    same = torch.allclose(kernel(x, h)[:, 4:], kernel(x, earlier_h)[:, 4:], atol=1e-6)
    assert same == (entry.blueprint_id not in MIXES_POSITIONS)


@pytest.mark.parametrize(
    "entry",
    [entry for entry in of_kind(VECTOR) if SEQUENCE in entry.kinds],
    ids=lambda entry: entry.blueprint_id,
)
def test_on_a_sequence_it_does_to_each_position_what_it_does_to_a_vector(entry: Blueprint) -> None:
    on_sequences, (x, h) = grown(entry, SITES[SEQUENCE]), inputs(SITES[SEQUENCE])
    on_vectors = newborn(entry, SITES[VECTOR])
    on_vectors.load_state_dict(on_sequences.state_dict())
    result = on_sequences(x, h)
    for position in range(result.shape[1]):
        alone = on_vectors(x[:, position], h[:, position])
        torch.testing.assert_close(result[:, position], alone)


def test_a_window_reaches_as_far_as_its_parameter_says() -> None:
    entry = member(shipped_named("local-window-attention"), {"window": 3})
    kernel, (x, h) = grown(entry, SITES[SEQUENCE]), inputs(SITES[SEQUENCE])
    changed = h.clone()
    changed[:, 4] = h[:, 4].flip(-1)
    differs = (kernel(x, h) != kernel(x, changed)).any(-1).any(0).tolist()
    assert differs == [2 <= position <= 6 for position in range(9)]


def test_what_reads_x_position_by_position_needs_an_x_as_long_as_h() -> None:
    site = SITES[SEQUENCE].model_copy(update={"x": (11, 24)})
    refused = set()
    for entry in of_kind(SEQUENCE):
        try:
            BlueprintCompiler().compile(entry, site)
        except BlueprintRejected:
            refused.add(entry.blueprint_id)
    assert refused == {"low-rank-skip", "low-rank-skip-wide", "film"}


# -- what some of them compute, written out -----------------------------------------------------

Weights = dict[str, Tensor]


def linear(w: Weights, node: str, value: Tensor) -> Tensor:
    return F.linear(value, w[f"{node}.weight"], w.get(f"{node}.bias"))


def film(w: Weights, x: Tensor, h: Tensor) -> Tensor:
    code = torch.tanh(linear(w, "code", x))
    return (h * linear(w, "gain", code) + linear(w, "shift", code)) * w["birth_scale.weight"]


def swiglu(w: Weights, x: Tensor, h: Tensor) -> Tensor:
    norm = F.rms_norm(h, h.shape[-1:], w["norm.weight"], 1e-5)
    gated = linear(w, "content", norm) * F.silu(linear(w, "gate_logit", norm))
    return linear(w, "project", gated)


def spatial_attention(w: Weights, x: Tensor, h: Tensor) -> Tensor:
    both = torch.cat([h.mean(1, keepdim=True), h.amax(1, keepdim=True)], 1)
    gate = torch.sigmoid(F.conv2d(both, w["gate_logit.weight"], w["gate_logit.bias"], padding=3))
    return h * gate * w["birth_scale.weight"]


def linear_attention(w: Weights, x: Tensor, h: Tensor) -> Tensor:
    norm = F.layer_norm(h, h.shape[-1:], w["norm.weight"], w["norm.bias"], 1e-5)
    query = linear(w, "query_logit", norm).softmax(-1)
    key = linear(w, "key_logit", norm).softmax(1)
    return linear(w, "project", query @ (key.mT @ linear(w, "value", norm)))


def token_mixing(w: Weights, x: Tensor, h: Tensor) -> Tensor:
    norm = F.layer_norm(h, h.shape[-1:], w["norm.weight"], w["norm.bias"], 1e-5)
    mixed = linear(w, "project", F.gelu(linear(w, "expand", norm.mT)))
    return mixed.mT * w["birth_scale.weight"]


def non_local(w: Weights, x: Tensor, h: Tensor) -> Tensor:
    norm = F.group_norm(h, 1, w["norm.weight"], w["norm.bias"], 1e-5)
    summary = F.adaptive_avg_pool2d(norm, (6, 5))
    query = F.conv2d(norm, w["query_map.weight"], w["query_map.bias"]).flatten(2).mT
    key = F.conv2d(summary, w["key_map.weight"]).flatten(2)
    value = F.conv2d(summary, w["value_map.weight"], w["value_map.bias"]).flatten(2).mT
    read = ((query @ key).softmax(-1) @ value).mT.unflatten(2, h.shape[2:])
    return F.conv2d(read, w["project.weight"], w["project.bias"])


WRITTEN_OUT: dict[str, tuple[SiteKind, Callable[[Weights, Tensor, Tensor], Tensor]]] = {
    "film": (VECTOR, film),
    "swiglu": (SEQUENCE, swiglu),
    "spatial-attention": (MAP, spatial_attention),
    "linear-attention": (SEQUENCE, linear_attention),
    "token-mixing-mlp": (SEQUENCE, token_mixing),
    "non-local-attention": (MAP, non_local),
    "identity": (MAP, lambda w, x, h: h * w["factor.weight"]),
}


@pytest.mark.parametrize("blueprint_id", WRITTEN_OUT)
def test_it_computes_what_its_source_says(blueprint_id: str) -> None:
    kind, written_out = WRITTEN_OUT[blueprint_id]
    kernel, (x, h) = grown(shipped_named(blueprint_id), SITES[kind]), inputs(SITES[kind])
    expected = written_out(kernel.state_dict(), x, h)
    torch.testing.assert_close(kernel(x, h).detach(), expected, rtol=1e-4, atol=1e-5)
