"""The validator: every promise of a kernel, broken once in bytes that it is given."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from esper.blueprint import RejectionCode, kernel_id
from esper.blueprint.ops import OPS, OpSpec, Run, Source
from esper.compiler import BlueprintCompiler, KernelRejected, KernelValidator
from esper.compiler.initialise import initial_tensors
from esper.kernel import Plan, Step, pack
from topics.models import Blueprint, Node, SiteKind, SiteSignature

SITE = SiteSignature(kind=SiteKind.VECTOR, x=(6,), h=(6,))
BOTTLENECK = Blueprint(
    blueprint_id="bottleneck",
    kind=SiteKind.VECTOR,
    nodes=(
        Node(id="down", op="linear", inputs=("h",), args={"out": 4}),
        Node(id="active", op="relu", inputs=("down",)),
        Node(id="up", op="linear", inputs=("active",), args={"out": "D"}),
    ),
    output="up",
)


def artifact(**changed: Tensor) -> bytes:
    """An artifact of the bottleneck, with some weights, `down_bias` for `down.bias`, replaced."""
    plan = BlueprintCompiler().compile(BOTTLENECK, SITE)
    replaced = {name.replace("_", "."): value for name, value in changed.items()}
    return pack(plan, initial_tensors(plan) | replaced)


def rejection_of(data: bytes) -> KernelRejected:
    with pytest.raises(KernelRejected) as rejection:
        KernelValidator().validate(data)
    return rejection.value


def test_an_honest_kernel_is_measured() -> None:
    data = artifact()
    measured = KernelValidator().validate(data)
    assert measured.params == 6 * 4 + 4 + 4 * 6 + 6
    assert measured.bytes == len(data)
    assert measured.forward_ms > 0
    assert measured.backward_ms > 0


def test_bytes_with_one_bit_of_the_plan_changed_are_not_loadable() -> None:
    data = bytearray(artifact())
    data[data.index(b"relu")] ^= 1
    assert rejection_of(bytes(data)).code is RejectionCode.NOT_LOADABLE


def test_a_kernel_that_speaks_at_birth_is_rejected() -> None:
    rejection = rejection_of(artifact(up_bias=torch.full((6,), 1e-30)))
    assert rejection.code is RejectionCode.NOT_SILENT_AT_BIRTH


def test_an_infinity_behind_zero_weights_is_found() -> None:
    rejection = rejection_of(artifact(down_weight=torch.full((4, 6), 3e38)))
    assert rejection.code is RejectionCode.NOT_FINITE


def test_a_parameter_that_never_learns_is_named() -> None:
    dead = artifact(down_weight=torch.zeros(4, 6), down_bias=torch.full((4,), -1.0))
    rejection = rejection_of(dead)
    assert rejection.code is RejectionCode.NO_GRADIENT
    assert "down.weight" in rejection.message


def other_shape(value: Tensor) -> Tensor:
    return value[:, None]


def mean_of_batch(value: Tensor) -> Tensor:
    return value - value.mean(0)


def noise(value: Tensor) -> Tensor:
    return value * torch.rand_like(value)


def out_of_memory(value: Tensor) -> Tensor:
    raise RuntimeError("not enough memory")


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        (other_shape, RejectionCode.WRONG_RESULT_SHAPE),
        (mean_of_batch, RejectionCode.BATCH_DEPENDENT),
        (noise, RejectionCode.NOT_DETERMINISTIC),
        (out_of_memory, RejectionCode.NOT_RUNNABLE),
    ],
)
def test_an_op_added_to_the_table_that_misbehaves_is_found(
    monkeypatch: pytest.MonkeyPatch, behaviour: Callable[[Tensor], Tensor], code: RejectionCode
) -> None:
    monkeypatch.setitem(OPS, "odd", op_that(behaviour))
    steps = (
        Step(node="odd", op="odd", inputs=(1,)),
        Step(node="out", op="scale", inputs=(2,)),
    )
    plan = Plan(kernel_id=kernel_id(BOTTLENECK, None), signature=SITE, steps=steps)
    assert rejection_of(pack(plan, initial_tensors(plan))).code is code


def op_that(behaviour: Callable[[Tensor], Tensor]) -> OpSpec:
    def run(args: object) -> Run:
        return behaviour

    return OpSpec(
        name="odd",
        summary="Breaks a promise.",
        arity=1,
        shape=lambda inputs, args: inputs[0],
        run=run,
        source=Source(call="{0}"),
    )
