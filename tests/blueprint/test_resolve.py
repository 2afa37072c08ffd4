"""What a blueprint becomes at a site: shapes, costs, limits."""

from typing import Any

import pytest

from esper.blueprint import BlueprintRejected, RejectionCode, resolve, shipped
from esper.compiler import BlueprintCompiler
from esper.topics.models import Blueprint, Node, SiteKind, SiteSignature

SITES = {
    SiteKind.VECTOR: SiteSignature(kind=SiteKind.VECTOR, x=(24,), h=(32,)),
    SiteKind.SEQUENCE: SiteSignature(kind=SiteKind.SEQUENCE, x=(12, 24), h=(12, 32)),
    SiteKind.FEATURE_MAP: SiteSignature(kind=SiteKind.FEATURE_MAP, x=(3, 8, 8), h=(16, 8, 8)),
}


def node(id: str, op: str, *inputs: str, **args: Any) -> Node:
    return Node(id=id, op=op, inputs=inputs, args=args)


def at(site: SiteSignature, *nodes: Node) -> Any:
    graph = Blueprint(blueprint_id="tried", kind=site.kind, nodes=nodes, output=nodes[-1].id)
    return resolve(graph, site)


def code_at(site: SiteSignature, *nodes: Node) -> RejectionCode:
    with pytest.raises(BlueprintRejected) as rejection:
        at(site, *nodes)
    return rejection.value.code


def test_nodes_have_shapes_parameters_and_costs_and_these_add_up() -> None:
    resolved = at(
        SITES[SiteKind.VECTOR],
        node("down", "linear", "x", out="D//4"),
        node("active", "relu", "down"),
        node("up", "linear", "active", out="D", bias=False),
    )
    assert [node.output for node in resolved.nodes] == [(8,), (8,), (32,)]
    assert [node.params for node in resolved.nodes] == [24 * 8 + 8, 0, 8 * 32]
    assert [node.flops for node in resolved.nodes] == [2 * 24 * 8, 8, 2 * 8 * 32]
    assert [node.memory for node in resolved.nodes] == [8, 8, 32]
    assert (resolved.params, resolved.flops, resolved.memory) == (456, 904, 48)


@pytest.mark.parametrize(
    ("blueprint", "kind"),
    [(blueprint, kind) for blueprint in shipped() for kind in blueprint.kinds],
    ids=lambda value: value.blueprint_id if isinstance(value, Blueprint) else value,
)
def test_a_plan_is_what_was_resolved(blueprint: Blueprint, kind: SiteKind) -> None:
    site = SITES[kind]
    resolved, plan = resolve(blueprint, site), BlueprintCompiler().compile(blueprint, site)
    assert (plan.params, plan.flops) == (resolved.params, resolved.flops)
    assert [step.output for step in plan.layout] == [node.output for node in resolved.nodes]
    assert resolved.nodes[-1].spec.zero_output_at_zero_weights


@pytest.mark.parametrize(
    ("nodes", "code"),
    [
        (
            [node("big", "learned", "h", shape=(1024, 1024, 8)), node("out", "relu", "big")],
            RejectionCode.TOO_MANY_PARAMETERS,
        ),
        (
            [node("big", "learned", "h", shape=("1024*1024",) * 4), node("out", "relu", "big")],
            RejectionCode.TOO_MANY_PARAMETERS,
        ),
        (
            [node("wide", "upsample", "h", size=(2048, 2048)), node("out", "relu", "wide")],
            RejectionCode.TOO_MANY_ACTIVATIONS,
        ),
        (
            [
                node("wide", "upsample", "h", size=(512, 512)),
                node("heavy", "conv2d", "wide", out="C", kernel=7),
                node("again", "conv2d", "heavy", out="4*C", kernel=7),
                node("out", "conv2d", "again", out="C", kernel=7),
            ],
            RejectionCode.TOO_MANY_FLOPS,
        ),
    ],
)
def test_each_limit_has_its_code(nodes: list[Node], code: RejectionCode) -> None:
    assert code_at(SITES[SiteKind.FEATURE_MAP], *nodes) is code


def test_concatenations_of_concatenations_meet_a_limit_before_they_meet_memory() -> None:
    nodes = [node("n0", "concat", *("h",) * 8, dim=0)]
    nodes += [node(f"n{i}", "concat", *(f"n{i - 1}",) * 8, dim=0) for i in range(1, 100)]
    assert code_at(SITES[SiteKind.VECTOR], *nodes) is RejectionCode.TOO_MANY_ACTIVATIONS


def test_attention_over_a_long_sequence_meets_the_limit_of_flops() -> None:
    long = SiteSignature(kind=SiteKind.SEQUENCE, x=(1, 64), h=(1 << 15, 64))
    assert code_at(long, node("read", "attention", "h", "h", "h")) is RejectionCode.TOO_MANY_FLOPS


def test_a_misfit_names_its_node_op_and_shapes() -> None:
    with pytest.raises(BlueprintRejected) as rejection:
        at(SITES[SiteKind.VECTOR], node("sum", "add", "x", "h"))
    assert rejection.value.message.startswith("node 'sum', add: (24,) and (32,)")
