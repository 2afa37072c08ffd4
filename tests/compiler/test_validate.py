"""The validator: every promise of a kernel, broken once in bytes that it is given."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor

from esper.blueprint import RejectionCode, kernel_id
from esper.blueprint.ops import OPS, OpSpec, Run, Source
from esper.compiler import BlueprintCompiler, KernelRejected, KernelValidator
from esper.compiler.initialise import initial_tensors
from esper.compiler.measure import LiveBytes, reference_host
from esper.compiler.validate import BATCH, LARGE_BATCH
from esper.kernel import KernelPlan, PlanStep, pack
from esper.topics.models import Blueprint, Characterisation, Node, SiteKind, SiteSignature

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


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_checked_where_the_caller_has_switched_them_off(
    mode: Callable[[], AbstractContextManager[None]],
) -> None:
    data = artifact()
    with mode():
        assert KernelValidator().validate(data).backward_ms > 0


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


def whisper(value: Tensor) -> Tensor:
    return value + 1e-6 * value.sum(0)


def size_of_batch(value: Tensor) -> Tensor:
    return value * len(value)


def noise(value: Tensor) -> Tensor:
    return value * torch.rand_like(value)


def steep(value: Tensor) -> Tensor:
    return value + (value * 0).sqrt()


def overwrite(value: Tensor) -> Tensor:
    return value.detach().mul_(1)


def refuse(value: Tensor) -> Tensor:
    raise RuntimeError("no such device")


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        (other_shape, RejectionCode.WRONG_RESULT_SHAPE),
        (mean_of_batch, RejectionCode.BATCH_DEPENDENT),
        (whisper, RejectionCode.BATCH_DEPENDENT),
        (size_of_batch, RejectionCode.BATCH_DEPENDENT),
        (noise, RejectionCode.NOT_DETERMINISTIC),
        (steep, RejectionCode.NOT_FINITE),
        (overwrite, RejectionCode.INPUT_CHANGED),
        (refuse, RejectionCode.NOT_RUNNABLE),
    ],
)
def test_an_op_added_to_the_table_that_misbehaves_is_found(
    monkeypatch: pytest.MonkeyPatch, behaviour: Callable[[Tensor], Tensor], code: RejectionCode
) -> None:
    assert rejection_of(odd_artifact(monkeypatch, lambda args: behaviour)).code is code


def test_a_function_that_another_kernel_of_the_same_state_does_not_share_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(args: object) -> Run:
        hidden = torch.rand(())
        return lambda value: value * hidden

    assert rejection_of(odd_artifact(monkeypatch, run)).code is RejectionCode.STATE_NOT_KEPT


@pytest.mark.parametrize("obeys_the_seed", [True, False])
def test_what_is_random_in_training_repeats_itself_under_the_same_seed(
    monkeypatch: pytest.MonkeyPatch, obeys_the_seed: bool
) -> None:
    generator = torch.default_generator if obeys_the_seed else torch.Generator()

    def run_training(args: object) -> Run:
        return lambda value: value * torch.rand(value.shape, generator=generator)

    data = odd_artifact(monkeypatch, lambda args: torch.relu, run_training)
    if obeys_the_seed:
        KernelValidator().validate(data)
    else:
        assert rejection_of(data).code is RejectionCode.NOT_DETERMINISTIC


def odd_artifact(
    monkeypatch: pytest.MonkeyPatch,
    run: Callable[[object], Run],
    run_training: Callable[[object], Run] | None = None,
) -> bytes:
    """An artifact whose first op is one that the table does not have."""
    odd = OpSpec(
        name="odd",
        summary="Breaks a promise.",
        shape=lambda inputs, args: inputs[0],
        memory=lambda inputs, args: prod(inputs[0]),
        run=run,
        run_training=run_training,
        source=Source(call="{0}"),
    )
    monkeypatch.setitem(OPS, "odd", odd)
    steps = (
        PlanStep(node="odd", op="odd", inputs=(1,)),
        PlanStep(node="out", op="scale", inputs=(2,)),
    )
    plan = KernelPlan(kernel_id=kernel_id(BOTTLENECK, None), signature=SITE, steps=steps)
    return pack(plan, initial_tensors(plan))


def test_memory_that_runs_out_is_no_fault_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(args: object) -> Run:
        return lambda value: torch.empty(1 << 60)

    with pytest.raises(RuntimeError, match="allocate memory"):
        KernelValidator().validate(odd_artifact(monkeypatch, run))


def test_a_verdict_is_the_same_each_time_and_leaves_random_numbers_alone() -> None:
    torch.manual_seed(1)
    data, before = artifact(), torch.default_generator.get_state()
    first, second = (KernelValidator().validate(data) for _ in range(2))
    assert torch.equal(torch.default_generator.get_state(), before)
    times = {name for name in first.model_fields_set if name.endswith("_ms")}
    assert first.model_dump(exclude=times) == second.model_dump(exclude=times)


def measured_at(site: SiteSignature, *nodes: Node) -> Characterisation:
    blueprint = Blueprint(blueprint_id="tried", kind=site.kind, nodes=nodes, output=nodes[-1].id)
    plan = BlueprintCompiler().compile(blueprint, site)
    return KernelValidator().validate(pack(plan, initial_tensors(plan)))


@pytest.mark.parametrize(
    ("op", "args", "causal"),
    [
        ("conv1d", {"out": "D", "causal": True}, True),
        ("conv1d", {"out": "D"}, False),
        ("shift", {"by": 1, "dim": 0}, True),
        ("roll", {"by": 1, "dim": 0}, False),
        ("linear", {"out": "D"}, True),
    ],
)
def test_whether_a_sequence_looks_ahead_is_measured(
    op: str, args: dict[str, Any], causal: bool
) -> None:
    site = SiteSignature(kind=SiteKind.SEQUENCE, x=(12, 6), h=(12, 6))
    looks = Node(id="looks", op=op, inputs=("h",), args=args)
    assert measured_at(site, looks, Node(id="out", op="scale", inputs=("looks",))).causal is causal


def test_a_look_ahead_within_pairs_of_positions_is_seen() -> None:
    site = SiteSignature(kind=SiteKind.SEQUENCE, x=(16, 4), h=(16, 4))
    measured = measured_at(
        site,
        Node(id="pairs", op="reshape", inputs=("h",), args={"shape": ("T//2", "2*D")}),
        Node(id="mix", op="linear", inputs=("pairs",), args={"out": "2*D"}),
        Node(id="flat", op="reshape", inputs=("mix",), args={"shape": ("T", "D")}),
        Node(id="out", op="scale", inputs=("flat",)),
    )
    assert measured.causal is False


def test_a_look_ahead_in_the_last_positions_alone_is_seen() -> None:
    site = SiteSignature(kind=SiteKind.SEQUENCE, x=(16, 4), h=(16, 4))
    halves = {"sizes": ("T//2", "T//2"), "dim": 0}
    measured = measured_at(
        site,
        Node(id="early", op="split", inputs=("h",), args={**halves, "index": 0}),
        Node(id="late", op="split", inputs=("h",), args={**halves, "index": 1}),
        Node(id="turned", op="roll", inputs=("late",), args={"by": 1, "dim": 0}),
        Node(id="whole", op="concat", inputs=("early", "turned"), args={"dim": 0}),
        Node(id="out", op="scale", inputs=("whole",)),
    )
    assert measured.causal is False


@pytest.mark.parametrize(
    "site",
    [SITE, SiteSignature(kind=SiteKind.SEQUENCE, x=(8, 6), h=(12, 6))],
)
def test_where_no_position_comes_later_nothing_is_said_of_it(site: SiteSignature) -> None:
    assert measured_at(site, Node(id="out", op="scale", inputs=("h",))).causal is None


def test_costs_that_follow_from_the_plan_are_those_of_one_sample() -> None:
    measured = KernelValidator().validate(artifact())
    plan = BlueprintCompiler().compile(BOTTLENECK, SITE)
    assert measured.flops == plan.flops
    assert measured.activation_bytes == 4 * (4 + 4 + 6)
    assert measured.batch == BATCH


def test_the_host_layer_is_measured_beside_the_kernel() -> None:
    measured = KernelValidator().validate(artifact())
    assert measured.host_forward_ms is not None
    assert measured.host_backward_ms is not None
    # Its result, and the gradients of result, input, weight and bias.
    assert measured.host_peak_bytes is not None
    assert measured.host_peak_bytes >= 4 * (2 * BATCH * 6 + 6 * 6 + 6)


def test_a_host_layer_that_would_be_too_large_is_left_out() -> None:
    site = SiteSignature(kind=SiteKind.VECTOR, x=(8192,), h=(8192,))
    measured = measured_at(site, Node(id="out", op="scale", inputs=("h",)))
    assert measured.host_forward_ms is None


def test_what_is_much_work_runs_on_fewer_samples() -> None:
    site = SiteSignature(kind=SiteKind.FEATURE_MAP, x=(64, 16, 16), h=(64, 16, 16))
    assert measured_at(site, Node(id="out", op="scale", inputs=("h",))).batch == LARGE_BATCH


def test_live_bytes_are_those_of_new_tensors_until_they_end() -> None:
    known = torch.ones(64)
    with LiveBytes([known]) as live:
        known.view(8, 8)
        assert live.peak == 0
        first = known + 1
        second = first.view(8, 8)[0] + first[0]
        assert live.peak == 4 * (64 + 8)
        del first, second
        third = known + 2
        assert live.peak == 4 * (64 + 8)
        del third
    assert live.peak == 4 * (64 + 8)


@pytest.mark.parametrize(
    ("x", "h"), [((3, 8, 8), (5, 4, 4)), ((2, 9, 7), (4, 5, 7)), ((4, 4, 4), (4, 4, 4))]
)
def test_the_host_layer_of_a_feature_map_has_its_sizes(
    x: tuple[int, ...], h: tuple[int, ...]
) -> None:
    site = SiteSignature(kind=SiteKind.FEATURE_MAP, x=x, h=h)
    host = reference_host(site)
    assert host is not None
    assert host.call(torch.zeros(2, *x), torch.zeros(2, *h)).shape == (2, *h)
