"""From a request to bytes: the laws that every shipped blueprint obeys, at sites of any size."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.blueprint import RejectionCode, request_for, shipped, shipped_named
from esper.compiler import Built, Rejected
from esper.compiler.build import build
from esper.compiler.outcome import from_bytes, to_bytes
from esper.kernel import Kernel, pack, unpack
from topics.codec import sha256_of
from topics.models import Blueprint, SiteKind, SiteSignature

MAP = SiteSignature(kind=SiteKind.FEATURE_MAP, x=(1, 8, 8), h=(8, 8, 8))
VECTOR = SiteSignature(kind=SiteKind.VECTOR, x=(64,), h=(32,))


def sites(kind: SiteKind) -> st.SearchStrategy[SiteSignature]:
    """Sites of a kind, with sizes that are small, odd and unequal."""
    size, channels = st.integers(2, 9), st.integers(1, 24)
    if kind is SiteKind.VECTOR:
        width = st.integers(2, 70).map(lambda size: (size,))
        return st.builds(SiteSignature, kind=st.just(kind), x=width, h=width)
    shape = st.tuples(channels, size, size)
    return st.builds(SiteSignature, kind=st.just(kind), x=shape, h=shape)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Blueprint, SiteSignature]:
    blueprint = draw(st.sampled_from(shipped()))
    return blueprint, draw(sites(blueprint.kind))


def kernel_of(blueprint: Blueprint, site: SiteSignature) -> Kernel:
    outcome = build(request_for(blueprint, site))
    assert isinstance(outcome, Built), outcome
    return Kernel(*unpack(outcome.artifact), outcome.sha256)


@settings(max_examples=25, deadline=None)
@given(cases())
def test_a_fresh_kernel_is_an_exact_no_op(case: tuple[Blueprint, SiteSignature]) -> None:
    blueprint, site = case
    kernel = kernel_of(blueprint, site)
    h = torch.randn(3, *site.h)
    result = kernel(torch.randn(3, *site.x), h)
    assert torch.equal(h + result, h)
    assert result.shape == h.shape


@settings(max_examples=25, deadline=None)
@given(cases())
def test_every_parameter_of_a_fresh_kernel_has_gradient_within_three_steps(
    case: tuple[Blueprint, SiteSignature],
) -> None:
    blueprint, site = case
    kernel = kernel_of(blueprint, site)
    optimizer = torch.optim.Adam(kernel.parameters(), lr=1e-2)
    x, h, target = torch.randn(4, *site.x), torch.randn(4, *site.h), torch.randn(4, *site.h)
    silent = {name for name, _ in kernel.named_parameters()}
    for _ in range(3):
        optimizer.zero_grad()
        (h + kernel(x, h) - target).square().mean().backward()
        optimizer.step()
        silent -= {
            name
            for name, value in kernel.named_parameters()
            if value.grad is not None and value.grad.any()
        }
    assert not silent


DIGESTS = """
from esper.blueprint import request_for, shipped
from esper.compiler.build import build
from topics.models import SiteKind, SiteSignature

for blueprint in shipped():
    shape = (8, 8, 8) if blueprint.kind is SiteKind.FEATURE_MAP else (32,)
    site = SiteSignature(kind=blueprint.kind, x=shape, h=shape)
    print(blueprint.blueprint_id, build(request_for(blueprint, site)).sha256)
"""


def test_the_bytes_are_the_same_in_other_processes_with_other_hash_seeds() -> None:
    first, second = (
        subprocess.run(
            [sys.executable, "-c", DIGESTS],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    )
    assert first == second
    assert len(first.splitlines()) == len(shipped())


def test_what_is_built_is_what_was_validated_and_can_be_packed_again() -> None:
    built = build(request_for(shipped_named("residual-conv3x3"), MAP))
    assert isinstance(built, Built)
    assert built.sha256 == sha256_of(built.artifact)
    assert pack(*unpack(built.artifact)) == built.artifact
    assert built.characterisation.bytes == len(built.artifact)
    assert set(built.timings_ms) == {"compile", "optimize", "serialise", "validate"}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_kernels_for_half_precision_sites_have_half_precision_weights(dtype: str) -> None:
    site = VECTOR.model_copy(update={"dtype": dtype})
    kernel = kernel_of(shipped_named("linear-bottleneck"), site)
    assert {str(value.dtype) for value in kernel.parameters()} == {f"torch.{dtype}"}


def test_a_blueprint_that_does_not_fit_is_rejected_as_a_value() -> None:
    outcome = build(request_for(shipped_named("gated-linear-unit"), MAP))
    assert isinstance(outcome, Rejected)
    assert outcome.code is RejectionCode.WRONG_KIND


def test_a_request_whose_id_is_not_that_of_its_content_is_rejected() -> None:
    request = request_for(shipped_named("low-rank-skip"), VECTOR)
    outcome = build(request.model_copy(update={"kernel_id": "0" * 64}))
    assert isinstance(outcome, Rejected)
    assert outcome.code is RejectionCode.WRONG_ID


@pytest.mark.parametrize("blueprint_id", ["low-rank-skip", "squeeze-excite"])
def test_an_outcome_survives_the_way_between_processes(blueprint_id: str) -> None:
    outcome = build(request_for(shipped_named(blueprint_id), VECTOR))
    assert from_bytes(to_bytes(outcome)) == outcome
