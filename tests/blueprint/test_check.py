"""The structural check: each fault that needs no site to be seen, with its code and its place."""

from dataclasses import replace
from typing import Any, cast

import orjson
import pytest
from pydantic import ValidationError

from esper.blueprint import BlueprintRejected, RejectionCode, check, shipped
from esper.blueprint.ops import OPS, OpSpec
from esper.topics.codec import Undecodable, decode, encode
from esper.topics.models import Blueprint, Node, SiteKind


def node(id: str, op: str, *inputs: str, **args: Any) -> Node:
    return Node(id=id, op=op, inputs=inputs, args=args)


def blueprint(*nodes: Node, output: str | None = None) -> Blueprint:
    return Blueprint(
        blueprint_id="tried",
        kind=SiteKind.FEATURE_MAP,
        nodes=nodes,
        output=output or nodes[-1].id,
    )


def faults_of(*nodes: Node, output: str | None = None) -> BlueprintRejected:
    with pytest.raises(BlueprintRejected) as rejection:
        check(blueprint(*nodes, output=output))
    return rejection.value


def test_every_shipped_blueprint_is_well_formed() -> None:
    for entry in shipped():
        check(entry)


@pytest.mark.parametrize(
    ("faulty", "code"),
    [
        (node("a", "exec", "h"), RejectionCode.UNKNOWN_OP),
        (node("a", "", "h"), RejectionCode.UNKNOWN_OP),
        (node("a", "relu", "h", "x"), RejectionCode.WRONG_ARITY),
        (node("a", "add", "h"), RejectionCode.WRONG_ARITY),
        (node("a", "conv2d", "h", out="C", causal=True), RejectionCode.UNKNOWN_ARGUMENT),
        (node("a", "relu", "h", inplace=True), RejectionCode.UNKNOWN_ARGUMENT),
        (node("a", "conv2d", "h"), RejectionCode.MISSING_ARGUMENT),
        (node("a", "conv2d", "h", out=0), RejectionCode.BAD_ARGUMENT),
        (node("a", "conv2d", "h", out=-4), RejectionCode.BAD_ARGUMENT),
        (node("a", "conv2d", "h", out=10**12), RejectionCode.BAD_ARGUMENT),
        (node("a", "conv2d", "h", out=8.0), RejectionCode.BAD_ARGUMENT),
        (node("a", "conv2d", "h", out=True), RejectionCode.BAD_ARGUMENT),
        (node("a", "conv2d", "h", out="C", kernel=2), RejectionCode.BAD_ARGUMENT),
        (node("a", "conv2d", "h", out="C", kernel="2"), RejectionCode.BAD_SIZE),
        (node("a", "conv2d", "h", out="3-3"), RejectionCode.BAD_SIZE),
        (node("a", "conv2d", "h", out="C", bias=1), RejectionCode.BAD_ARGUMENT),
        (node("a", "conv2d", "h", out="C", bias="C"), RejectionCode.BAD_ARGUMENT),
        (node("a", "conv2d", "h", out=("C",)), RejectionCode.BAD_ARGUMENT),
        (node("a", "dropout", "h", p=1.0), RejectionCode.BAD_ARGUMENT),
        (node("a", "dropout", "h", p=-0.1), RejectionCode.BAD_ARGUMENT),
        (node("a", "dropout", "h", p="C"), RejectionCode.BAD_ARGUMENT),
        (node("a", "reshape", "h", shape=()), RejectionCode.BAD_ARGUMENT),
        (node("a", "reshape", "h", shape=("C",) * 5), RejectionCode.BAD_ARGUMENT),
        (node("a", "reshape", "h", shape=(0, "C")), RejectionCode.BAD_ARGUMENT),
        (node("a", "reshape", "h", shape="C"), RejectionCode.BAD_ARGUMENT),
        (node("a", "reshape", "h", shape=("C", "D")), RejectionCode.BAD_EXPRESSION),
        (node("a", "reshape", "h", shape=("C", "0*7")), RejectionCode.BAD_SIZE),
        (node("a", "transpose", "h", order=(0, 1, 4)), RejectionCode.BAD_ARGUMENT),
        (node("a", "concat", "h", dim=0), RejectionCode.WRONG_ARITY),
        (node("a", "concat", "h", "x"), RejectionCode.MISSING_ARGUMENT),
        (node("a", "conv2d", "h", out="C**C"), RejectionCode.BAD_EXPRESSION),
        (node("a", "conv2d", "h", out="D"), RejectionCode.BAD_EXPRESSION),
        (node("x", "relu", "h"), RejectionCode.RESERVED_NAME),
        (node("h", "relu", "x"), RejectionCode.RESERVED_NAME),
        (node("a", "relu", "ghost"), RejectionCode.DANGLING_REFERENCE),
        (node("a", "relu", "a"), RejectionCode.CYCLE),
    ],
)
def test_a_faulty_node_is_refused_by_name(faulty: Node, code: RejectionCode) -> None:
    rejection = faults_of(faulty)
    assert rejection.code is code
    assert rejection.message.startswith(f"node {faulty.id!r}")


def test_an_op_of_the_optimiser_is_none_that_an_author_may_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(
        cast("dict[str, OpSpec]", OPS), "fused", replace(OPS["relu"], internal=True)
    )
    rejection = faults_of(node("a", "fused", "h"))
    assert rejection.code is RejectionCode.UNKNOWN_OP
    assert "fused" not in rejection.message.partition("there are")[2]


def of_kinds(*kinds: SiteKind, **args: Any) -> Blueprint:
    return Blueprint(
        blueprint_id="tried",
        kind=kinds,
        nodes=(node("a", "linear", "h", **args),),
        output="a",
    )


def test_a_blueprint_of_several_kinds_may_use_the_sizes_that_all_of_them_have() -> None:
    check(of_kinds(SiteKind.SEQUENCE, SiteKind.VECTOR, out="max(D, Dx)"))
    with pytest.raises(BlueprintRejected, match="'T'"):
        check(of_kinds(SiteKind.SEQUENCE, SiteKind.VECTOR, out="T"))
    with pytest.raises(BlueprintRejected, match="common"):
        check(of_kinds(SiteKind.FEATURE_MAP, SiteKind.VECTOR, out="D"))


@pytest.mark.parametrize("kinds", [(), (SiteKind.VECTOR, SiteKind.VECTOR)])
def test_kinds_are_one_or_more_and_none_twice(kinds: tuple[SiteKind, ...]) -> None:
    with pytest.raises(ValidationError):
        of_kinds(*kinds, out="D")


def test_one_kind_may_be_written_alone_or_as_a_list() -> None:
    value = orjson.loads(encode(of_kinds(SiteKind.VECTOR, out="D")))
    alone = decode(Blueprint, orjson.dumps(value | {"kind": "vector"}))
    listed = decode(Blueprint, orjson.dumps(value | {"kind": ["vector"]}))
    assert alone.kinds == listed.kinds == (SiteKind.VECTOR,)
    assert alone.kind is SiteKind.VECTOR


def test_two_nodes_of_one_name_are_refused() -> None:
    rejection = faults_of(node("a", "relu", "h"), node("a", "tanh", "a"))
    assert rejection.code is RejectionCode.DUPLICATE_NODE


def test_a_cycle_is_refused() -> None:
    rejection = faults_of(node("a", "relu", "b"), node("b", "tanh", "a"))
    assert rejection.code is RejectionCode.CYCLE


def test_a_node_that_the_output_does_not_need_is_refused() -> None:
    rejection = faults_of(node("lost", "relu", "h"), node("out", "tanh", "h"))
    assert rejection.code is RejectionCode.DEAD_NODE
    assert "'lost'" in rejection.message


def test_nodes_after_the_output_are_refused() -> None:
    rejection = faults_of(node("out", "tanh", "h"), node("late", "relu", "out"), output="out")
    assert rejection.code is RejectionCode.DEAD_NODE


@pytest.mark.parametrize("output", ["ghost", "h"])
def test_an_output_that_is_no_node_is_refused(output: str) -> None:
    rejection = faults_of(node("a", "relu", "h"), output=output)
    assert rejection.code is RejectionCode.OUTPUT_MISSING


@pytest.mark.parametrize("name", ["__class__", "out=1,exec", "Out", "a" * 33, "out\n", "é"])
def test_names_that_could_inject_are_no_blueprint_at_all(name: str) -> None:
    with pytest.raises(ValidationError):
        node("a", "conv2d", "h", **{name: "C"})
    with pytest.raises(ValidationError):
        node(name, "relu", "h")


def test_a_graph_of_100_000_nodes_is_no_blueprint_at_all() -> None:
    nodes = [
        {"id": f"n{index}", "op": "relu", "inputs": [f"n{index - 1}" if index else "h"]}
        for index in range(100_000)
    ]
    value = {"blueprint_id": "big", "kind": "vector", "nodes": nodes, "output": "n99999"}
    with pytest.raises(Undecodable, match="nodes"):
        decode(Blueprint, orjson.dumps(value))
