"""The shipped blueprints as a reader finds them: many, of every kind, each with its source."""

import re
from collections import Counter
from importlib.resources import files

import orjson

from esper.blueprint import check, shipped
from esper.blueprint.ops import OPS
from esper.topics.codec import encode
from esper.topics.models import SiteKind

SOURCE = re.compile(r"^[A-Z0-9][^()]{30,} \([A-Za-z][\w' .-]+, [A-Z0-9].{8,}, (19|20)\d\d\)\.$")
"""A sentence on what it is for; then authors, title and year."""

ENTRIES = {blueprint.blueprint_id: blueprint for blueprint in shipped()}


def test_there_are_many_and_enough_for_every_kind() -> None:
    kinds = Counter(kind for blueprint in shipped() for kind in blueprint.kinds)
    assert len(ENTRIES) >= 24
    assert all(kinds[kind] >= 8 for kind in SiteKind)


def test_each_is_well_formed_and_lies_in_the_file_of_its_name() -> None:
    folder = files("esper.blueprint").joinpath("catalog")
    for blueprint in shipped():
        check(blueprint)
        written = orjson.loads(folder.joinpath(f"{blueprint.blueprint_id}.json").read_bytes())
        assert (
            orjson.loads(encode(blueprint)).items()
            >= {key: value for key, value in written.items() if key != "nodes"}.items()
        )
    assert len(list(folder.iterdir())) == len(ENTRIES)


def test_each_says_what_it_is_for_and_where_it_comes_from() -> None:
    for blueprint in shipped():
        assert SOURCE.match(blueprint.summary), blueprint.summary


def test_most_are_families_and_every_parameter_is_used() -> None:
    families = [blueprint for blueprint in shipped() if blueprint.parameters]
    assert len(families) >= 20
    for blueprint in families:
        nodes = encode(blueprint).partition(b'"nodes"')[2].decode()
        for name in blueprint.parameters:
            assert re.search(rf'"[^"]*\b{name}\b[^"]*"', nodes.replace(f'"{name}":', "")), name


def test_together_they_use_every_op_that_learns_or_mixes() -> None:
    used = {node.op for blueprint in shipped() for node in blueprint.nodes}
    assert used <= OPS.keys()
    assert used >= {"linear", "conv1d", "conv2d", "attention", "matmul", "softmax", "concat"}
    assert used >= {"transpose", "reshape", "shift", "upsample", "dropout", "scale", "max", "mean"}
