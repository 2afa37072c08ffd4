"""From a blueprint to a plan: what is refused at a site, and how a kernel is born."""

from typing import Any

import pytest

from esper.blueprint import BlueprintRejected, RejectionCode, kernel_id, shipped_named
from esper.compiler import BlueprintCompiler, KernelOptimizer
from esper.kernel import KernelPlan
from esper.topics.models import Blueprint, Node, SiteKind, SiteSignature

SITE = SiteSignature(kind=SiteKind.FEATURE_MAP, x=(1, 8, 8), h=(8, 8, 8))


def node(id: str, op: str, *inputs: str, **args: Any) -> Node:
    return Node(id=id, op=op, inputs=inputs, args=args)


def blueprint(*nodes: Node, kind: SiteKind = SiteKind.FEATURE_MAP) -> Blueprint:
    return Blueprint(blueprint_id="tried", kind=kind, nodes=nodes, output=nodes[-1].id)


def compiled(*nodes: Node, site: SiteSignature = SITE) -> KernelPlan:
    return BlueprintCompiler().compile(blueprint(*nodes, kind=site.kind), site)


def refusal(*nodes: Node, site: SiteSignature = SITE) -> BlueprintRejected:
    with pytest.raises(BlueprintRejected) as rejection:
        compiled(*nodes, site=site)
    return rejection.value


def test_symbols_and_defaults_become_numbers() -> None:
    (step,) = compiled(node("mix", "conv2d", "x", out="max(2, C//Cx)")).steps
    assert step.args == {
        "out": 8,
        "kernel": 3,
        "groups": 1,
        "dilation": 1,
        "stride": 1,
        "bias": True,
    }


def test_a_plan_carries_the_id_of_its_blueprint_at_its_site() -> None:
    source = shipped_named("squeeze-excite")
    plan = BlueprintCompiler().compile(source, SITE)
    assert plan.kernel_id == kernel_id(source, SITE)


def test_a_graph_that_ends_in_a_learnable_map_is_left_as_it_is() -> None:
    assert [step.op for step in compiled(node("mix", "conv2d", "h", out="C")).steps] == ["conv2d"]


def test_a_graph_that_cannot_be_silent_gets_a_scale_after_it() -> None:
    plan = compiled(node("birth_scale", "relu", "h"))
    assert [(step.node, step.op) for step in plan.steps] == [
        ("birth_scale", "relu"),
        ("birth_scale0", "scale"),
    ]


def test_a_structural_fault_is_refused_before_the_site_is_considered() -> None:
    assert refusal(node("a", "exec", "h")).code is RejectionCode.UNKNOWN_OP


def test_a_blueprint_of_another_kind_is_refused() -> None:
    vector = SiteSignature(kind=SiteKind.VECTOR, x=(8,), h=(8,))
    with pytest.raises(BlueprintRejected) as rejection:
        BlueprintCompiler().compile(shipped_named("squeeze-excite"), vector)
    assert rejection.value.code is RejectionCode.WRONG_KIND


@pytest.mark.parametrize(
    ("args", "code"),
    [
        ({"out": "C-C"}, RejectionCode.BAD_SIZE),
        ({"out": "C//16"}, RejectionCode.BAD_SIZE),
        ({"out": "C", "dilation": "C*C"}, RejectionCode.BAD_SIZE),
        ({"out": "C", "groups": 3}, RejectionCode.SHAPE_MISMATCH),
        ({"out": "C+1"}, RejectionCode.OUTPUT_SHAPE),
        ({"out": "16*C*C*C*C*C"}, RejectionCode.TOO_MANY_PARAMETERS),
    ],
)
def test_what_does_not_fit_the_site_is_refused(args: dict[str, Any], code: RejectionCode) -> None:
    rejection = refusal(node("mix", "conv2d", "h", **args))
    assert rejection.code is code
    assert "'mix'" in rejection.message


def test_too_many_activations_are_refused() -> None:
    huge = SiteSignature(kind=SiteKind.FEATURE_MAP, x=(1, 1, 1), h=(1, 1 << 13, 1 << 13))
    rejection = refusal(node("a", "relu", "h"), site=huge)
    assert rejection.code is RejectionCode.TOO_MANY_ACTIVATIONS


def test_a_value_is_freed_by_its_last_reader_and_not_before() -> None:
    plan = compiled(
        node("a", "relu", "h"),
        node("b", "tanh", "a"),
        node("c", "add", "a", "b"),
        node("d", "add", "c", "h"),
    )
    assert [step.frees for step in KernelOptimizer().optimize(plan).steps] == [
        (),
        (),
        (2, 3),
        (4,),
        (5,),
    ]
