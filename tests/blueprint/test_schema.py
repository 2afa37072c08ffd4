"""The author's JSON Schema: as committed, true of what ships, and closed to slips."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from jsonschema import Draft7Validator

from esper.blueprint import BlueprintRejected, check, shipped
from esper.blueprint.ops import OPS
from esper.blueprint.schema import author_schema
from esper.topics.codec import Undecodable, decode, encode
from esper.topics.models import Blueprint, SiteSignature
from tests.blueprint.graphs import graphs

COMMITTED = Path(__file__).parents[2] / "docs/contracts/schemas/AuthoredBlueprint.json"
SCHEMA = author_schema()
VALIDATOR = Draft7Validator(SCHEMA)

Document = dict[str, Any]


def sound() -> Document:
    return {
        "blueprint_id": "tried",
        "kind": "feature_map",
        "parameters": {"width": {"default": "C//4", "most": 64}},
        "nodes": [
            {"id": "down", "op": "conv2d", "inputs": ["h"], "args": {"out": "width"}},
            {"id": "sum", "op": "add", "inputs": ["down", "down"]},
            {"id": "up", "op": "conv2d", "inputs": ["sum"], "args": {"out": "C", "kernel": 1}},
        ],
        "output": "up",
    }


def node(index: int, **changes: Any) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        document["nodes"][index].update(changes)

    return change


def test_the_committed_schema_is_what_the_table_of_ops_gives() -> None:
    generated = orjson.dumps(SCHEMA, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n"
    assert COMMITTED.read_bytes() == generated, "run `make contracts` and commit it"


def test_the_schema_is_valid() -> None:
    Draft7Validator.check_schema(SCHEMA)


def test_the_schema_offers_every_op_that_an_author_may_name_and_no_other() -> None:
    offered = {op["const"] for op in SCHEMA["definitions"]["Node"]["properties"]["op"]["oneOf"]}
    assert offered == {row.name for row in OPS.values() if not row.internal}


@pytest.mark.parametrize("blueprint", shipped(), ids=lambda blueprint: blueprint.blueprint_id)
def test_every_shipped_blueprint_validates(blueprint: Blueprint) -> None:
    VALIDATOR.validate(orjson.loads(encode(blueprint)))


def test_every_field_op_and_argument_is_described_for_an_editor() -> None:
    node, arguments = SCHEMA["definitions"]["Node"], dict[str, Document]()
    for row in OPS.values():
        if not row.internal:
            arguments |= SCHEMA["definitions"][f"args_of_{row.name}"]["properties"]
    described = [*SCHEMA["properties"].values(), *arguments.values()]
    described += [*node["properties"].values(), *node["properties"]["op"]["oneOf"]]
    assert all(len(field["description"]) > 10 for field in described)


@pytest.mark.parametrize("blueprint", shipped(), ids=lambda blueprint: blueprint.blueprint_id)
def test_a_shipped_blueprint_with_a_slip_does_not_validate(blueprint: Blueprint) -> None:
    for slip in (
        node(-1, op="nonesuch"),
        node(-1, inputs=["h"] * 9),
        node(-1, args={"odd": 1}),
        node(0, ops="relu"),
    ):
        document = orjson.loads(encode(blueprint))
        slip(document)
        assert not VALIDATOR.is_valid(document)


def test_a_blueprint_may_name_its_schema_for_an_editor() -> None:
    document = sound() | {"$schema": "AuthoredBlueprint.json"}
    VALIDATOR.validate(document)
    check(decode(Blueprint, orjson.dumps(document)))


@pytest.mark.parametrize(
    "slip",
    [
        node(0, op="conv3d"),
        node(0, id="Down"),
        node(0, inputs=[]),
        node(0, inputs=["h", "x"]),
        node(0, args={}),
        node(0, args={"out": 0}),
        node(0, args={"out": 2**21}),
        node(0, args={"out": 8.5}),
        node(0, args={"out": True}),
        node(0, args={"out": "C^2"}),
        node(0, args={"out": "C" * 65}),
        node(0, args={"out": [8]}),
        node(0, args={"out": "C", "kernel": 4}),
        node(0, args={"out": "C", "bias": 1}),
        node(0, args={"out": "C", "causal": True}),
        node(0, arg={"out": "C"}),
        node(1, inputs=["down"]),
        node(1, op="reshape", inputs=["down"], args={"shape": []}),
        node(1, op="reshape", inputs=["down"], args={"shape": [1, 1, 1, 1, 1]}),
        node(1, op="reshape", inputs=["down"], args={"shape": "C"}),
        node(1, op="transpose", inputs=["down"], args={"order": [0, 4]}),
        node(1, op="dropout", inputs=["down"], args={"p": 1}),
        node(1, op="roll", inputs=["down"], args={"by": 1}),
        lambda document: document.update(kind="map"),
        lambda document: document.update(kind=[]),
        lambda document: document.update(kind=["vector", "vector"]),
        lambda document: document.update(nodes=[]),
        lambda document: document.update(paramters={}),
        lambda document: document.update(blueprint_id="A Name"),
        lambda document: document["parameters"]["width"].update(least=0),
        lambda document: document["parameters"]["width"].update(min=1),
        lambda document: document["parameters"].update(width={}),
        lambda document: document["parameters"].update(Width={"default": 1}),
        lambda document: document.update(values={"width": "C"}),
        lambda document: document.pop("output"),
    ],
)
def test_a_slip_does_not_validate(slip: Callable[[Document], None]) -> None:
    document = sound()
    VALIDATOR.validate(document)
    slip(document)
    assert not VALIDATOR.is_valid(document)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(graphs())
def test_whatever_fits_a_site_validates(graph: tuple[Blueprint, SiteSignature]) -> None:
    VALIDATOR.validate(orjson.loads(encode(graph[0])))


@pytest.mark.parametrize("blueprint", shipped()[::4], ids=lambda entry: entry.blueprint_id)
def test_a_shipped_blueprint_without_one_of_its_arguments_validates_if_it_passes_the_check(
    blueprint: Blueprint,
) -> None:
    for index, each in enumerate(blueprint.nodes):
        for name in each.args:
            document = orjson.loads(encode(blueprint))
            del document["nodes"][index]["args"][name]
            assert VALIDATOR.is_valid(document) == is_well_formed(document), (each.id, name)


def is_well_formed(document: Document) -> bool:
    try:
        check(decode(Blueprint, orjson.dumps(document)))
    except (Undecodable, BlueprintRejected) as error:
        # The schema cannot see that a parameter has no use left.
        return "no argument uses this parameter" in str(error)
    return True
