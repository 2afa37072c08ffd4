"""Plans: canonical as bytes, and refused where a stranger's bytes break a rule."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from esper.blueprint import MAX_FLOPS, shipped_named
from esper.compiler import BlueprintCompiler, KernelOptimizer
from esper.kernel import ArtifactRefused, KernelPlan, PlanStep
from esper.kernel.plan import FIRST_STEP_SLOT
from esper.topics.models import SiteKind, SiteSignature

SITE = SiteSignature(kind=SiteKind.VECTOR, x=(6,), h=(6,))
PLAN = KernelOptimizer().optimize(
    BlueprintCompiler().compile(shipped_named("linear-bottleneck"), SITE)
)

Document = dict[str, Any]


def canonical(document: Document) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS)


def test_a_plan_survives_its_own_bytes() -> None:
    assert KernelPlan.from_json(PLAN.to_json()) == PLAN


def test_parameters_are_named_by_node_in_order_of_use() -> None:
    assert {name: spec.shape for name, spec in PLAN.parameters.items()} == {
        "norm.weight": (6,),
        "norm.bias": (6,),
        "down.weight": (4, 6),
        "down.bias": (4,),
        "up.weight": (6, 4),
        "up.bias": (6,),
    }
    assert PLAN.params == 6 + 6 + 24 + 4 + 24 + 6


def step(index: int, **changes: Any) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        document["steps"][index].update(changes)

    return change


def args(index: int, **changes: Any) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        document["steps"][index]["args"].update(changes)

    return change


def field(**changes: Any) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        document.update(changes)

    return change


def repeat_first_step(document: Document) -> None:
    document["steps"] = document["steps"][:1] * 200


def end_in_a_norm(document: Document) -> None:
    document["steps"] = document["steps"][:1]


def widen(document: Document) -> None:
    document["steps"][1]["args"]["out"] = 1 << 20
    document["signature"].update(x=[1 << 20], h=[1 << 20])


@pytest.mark.parametrize(
    "tamper",
    [
        field(format="esper-plan/2"),
        field(kernel_id="../../etc/passwd"),
        field(extra=1),
        field(steps=[]),
        field(signature={"kind": "vector", "x": [6, 6], "h": [6], "dtype": "float32"}),
        field(signature=SITE.model_dump(mode="json") | {"dtype": "object"}),
        field(signature=SITE.model_dump(mode="json") | {"x": [6, 6]}),
        field(signature=SITE.model_dump(mode="json") | {"h": [7]}),
        step(0, op="exec"),
        step(0, op="linear"),
        step(0, node="Norm"),
        step(0, node="h"),
        step(0, node="__class__"),
        step(1, node="norm"),
        step(0, code="import os"),
        step(0, inputs=[]),
        step(0, inputs=[1, 1]),
        step(0, inputs=[-1]),
        step(0, inputs=[2]),
        step(1, inputs=[5]),
        step(0, inputs=[10**9]),
        step(2, inputs=[2]),
        step(0, frees=[1]),
        step(1, frees=[5]),
        step(3, frees=[4, 4, 2]),
        step(1, inputs=[1], frees=[]),
        step(1, args={}),
        args(1, out=0),
        args(1, out=4.0),
        args(1, out="D"),
        args(1, out=10**12),
        args(1, bias=1),
        args(1, out=[4]),
        args(1, out=True),
        args(1, stride=2),
        repeat_first_step,
        end_in_a_norm,
        widen,
    ],
)
def test_a_plan_that_breaks_a_rule_is_refused(tamper: Callable[[Document], None]) -> None:
    document = orjson.loads(PLAN.to_json())
    tamper(document)
    with pytest.raises(ArtifactRefused):
        KernelPlan.from_json(canonical(document))


def costly(size: int, convolutions: int) -> KernelPlan:
    """A plan that enlarges a feature map, convolves it there, and comes back."""
    conv = {"out": 16, "kernel": 7, "groups": 1, "dilation": 1, "stride": 1, "bias": False}
    steps = [PlanStep(node="large", op="upsample", inputs=(1,), args={"size": (size, size)})]
    for index in range(convolutions):
        steps.append(PlanStep(node=f"conv{index}", op="conv2d", inputs=(2 + index,), args=conv))
    small = {"size": (2, 2)}
    last = FIRST_STEP_SLOT + convolutions
    steps.append(PlanStep(node="small", op="adaptive_avg_pool", inputs=(last,), args=small))
    steps.append(PlanStep(node="out", op="scale", inputs=(last + 1,)))
    site = SiteSignature(kind=SiteKind.FEATURE_MAP, x=(16, 2, 2), h=(16, 2, 2))
    return KernelPlan(kernel_id=PLAN.kernel_id, signature=site, steps=tuple(steps))


def test_a_plan_may_cost_as_much_as_the_limits_and_no_more() -> None:
    assert costly(size=512, convolutions=3).flops < MAX_FLOPS
    with pytest.raises(ArtifactRefused, match="FLOPs"):
        costly(size=512, convolutions=4)
    with pytest.raises(ArtifactRefused, match="activations"):
        costly(size=2048, convolutions=1)


@pytest.mark.parametrize("value", [b"", b"null", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_bytes_that_are_no_plan_are_refused(value: bytes) -> None:
    with pytest.raises(ArtifactRefused):
        KernelPlan.from_json(value)


def test_another_way_to_write_the_same_plan_is_refused() -> None:
    with pytest.raises(ArtifactRefused, match="canonical"):
        KernelPlan.from_json(PLAN.to_json() + b" ")


def test_a_plan_larger_than_the_limit_is_refused_unread() -> None:
    with pytest.raises(ArtifactRefused, match="bytes"):
        KernelPlan.from_json(b" " * (1 << 18))
