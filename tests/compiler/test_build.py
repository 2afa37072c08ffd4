"""From a request to validated bytes, both steps in one process."""

import pytest

from esper.blueprint import RejectionCode, request_for, shipped_named
from esper.compiler import Built, Rejected
from esper.compiler.build import build_kernel, compile_kernel, validate_kernel
from esper.compiler.results import Compiled, Validated, from_bytes, to_bytes
from esper.kernel import Kernel, pack, unpack
from esper.topics.codec import sha256_of
from esper.topics.models import SiteKind, SiteSignature

MAP = SiteSignature(kind=SiteKind.FEATURE_MAP, x=(1, 8, 8), h=(8, 8, 8))
VECTOR = SiteSignature(kind=SiteKind.VECTOR, x=(64,), h=(32,))

STEPS = {"compile", "optimize", "serialise", "validate"}
PARTS = {"load", "inputs", "birth", "learning", "repeats", "rows", "measure"}


def test_what_is_built_is_what_was_validated_and_can_be_packed_again() -> None:
    built = build_kernel(request_for(shipped_named("residual-conv3x3"), MAP))
    assert isinstance(built, Built)
    assert built.sha256 == sha256_of(built.artifact)
    assert pack(*unpack(built.artifact)) == built.artifact
    assert built.characterisation.bytes == len(built.artifact)


def test_every_step_and_every_part_of_validation_has_a_time() -> None:
    built = build_kernel(request_for(shipped_named("low-rank-skip"), VECTOR))
    assert built.timings_ms.keys() == STEPS | {f"validate.{part}" for part in PARTS}
    parts = sum(built.timings_ms[f"validate.{part}"] for part in PARTS)
    assert 0 < parts <= built.timings_ms["validate"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_kernels_for_half_precision_sites_have_half_precision_weights(dtype: str) -> None:
    site = VECTOR.model_copy(update={"dtype": dtype})
    built = build_kernel(request_for(shipped_named("linear-bottleneck"), site))
    assert isinstance(built, Built)
    kernel = Kernel(*unpack(built.artifact), built.sha256)
    assert {str(value.dtype) for value in kernel.parameters()} == {f"torch.{dtype}"}


def test_a_blueprint_that_does_not_fit_is_rejected_as_a_value() -> None:
    outcome = build_kernel(request_for(shipped_named("gated-linear-unit"), MAP))
    assert isinstance(outcome, Rejected)
    assert outcome.code is RejectionCode.WRONG_KIND


def test_a_request_whose_id_is_not_that_of_its_content_is_rejected() -> None:
    request = request_for(shipped_named("low-rank-skip"), VECTOR)
    outcome = build_kernel(request.model_copy(update={"kernel_id": "0" * 64}))
    assert isinstance(outcome, Rejected)
    assert outcome.code is RejectionCode.WRONG_ID


def test_the_outcome_of_each_step_survives_the_way_between_processes() -> None:
    compiled = compile_kernel(request_for(shipped_named("low-rank-skip"), VECTOR))
    rejected = compile_kernel(request_for(shipped_named("low-rank-skip"), MAP))
    assert isinstance(compiled, Compiled)
    assert isinstance(rejected, Rejected)
    validated = validate_kernel(compiled.artifact)
    assert isinstance(validated, Validated)
    for outcome in (compiled, rejected, validated):
        assert from_bytes(to_bytes(outcome)) == outcome
