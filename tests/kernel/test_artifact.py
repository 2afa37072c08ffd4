"""Artifacts: one form for each kernel, and every other form refused."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from esper.blueprint import shipped_named
from esper.compiler import BlueprintCompiler, initial_tensors
from esper.kernel import ArtifactRefused, pack, unpack
from esper.kernel.metadata import MAX_ARTIFACT_BYTES, PLAN_KEY
from esper.topics.models import SiteKind, SiteSignature

SITE = SiteSignature(kind=SiteKind.VECTOR, x=(6,), h=(6,))
PLAN = BlueprintCompiler().compile(shipped_named("linear-bottleneck"), SITE)
TENSORS = initial_tensors(PLAN)
ARTIFACT = pack(PLAN, TENSORS)

Tensors = dict[str, Tensor]


def test_a_packed_kernel_is_unpacked_whole() -> None:
    plan, tensors = unpack(ARTIFACT)
    assert plan == PLAN
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_the_bytes_do_not_depend_on_the_order_or_layout_of_the_weights() -> None:
    strided = {name: value.clone().t().contiguous().t() for name, value in TENSORS.items()}
    assert pack(PLAN, dict(reversed(strided.items()))) == ARTIFACT


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("up.bias"),
        lambda tensors: tensors.update({"more.weight": torch.zeros(1)}),
        lambda tensors: tensors.update({"up.bias": torch.zeros(7)}),
        lambda tensors: tensors.update({"up.bias": torch.zeros(2, 3)}),
        lambda tensors: tensors.update({"up.bias": torch.zeros(6, dtype=torch.int32)}),
        lambda tensors: tensors.update({"up.bias": torch.full((6,), float("nan"))}),
    ],
)
def test_weights_that_are_not_the_plans_are_refused(change: Callable[[Tensors], object]) -> None:
    tensors = dict(TENSORS)
    change(tensors)
    with pytest.raises(ArtifactRefused):
        pack(PLAN, tensors)
    with pytest.raises(ArtifactRefused):
        unpack(save(tensors, metadata={PLAN_KEY: PLAN.to_json().decode()}))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 8,
        b"\xff" * 64,
        (1 << 40).to_bytes(8, "little") + ARTIFACT[8:],
        ARTIFACT[:-1],
        ARTIFACT + b"\x00",
        save(TENSORS),
        save(TENSORS, metadata={PLAN_KEY: "{}"}),
        save(TENSORS, metadata={PLAN_KEY: PLAN.to_json().decode() + " "}),
        save(TENSORS, metadata={PLAN_KEY: PLAN.to_json().decode(), "more": "1"}),
        bytes(MAX_ARTIFACT_BYTES + 1),
    ],
    ids=lambda data: f"{len(data)} bytes",
)
def test_bytes_that_are_not_exactly_an_artifact_are_refused(data: bytes) -> None:
    with pytest.raises(ArtifactRefused):
        unpack(data)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(ARTIFACT) - 1), st.integers(1, 255))
def test_whatever_is_unpacked_has_no_other_form(position: int, flip: int) -> None:
    data = bytearray(ARTIFACT)
    data[position] ^= flip
    try:
        kernel = unpack(bytes(data))
    except ArtifactRefused:
        return
    # A weight changed, say: the SHA-256 in kernel-ready tells it, the format cannot.
    assert pack(*kernel) == data
