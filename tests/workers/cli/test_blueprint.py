"""`esper blueprint`: what a file would become, or the exact place where it is wrong."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner, Result

from esper.blueprint import OPS, shipped
from esper.topics.bus import create_topics, read_topic
from esper.topics.catalog import BLUEPRINT_SUBMITTED
from esper.topics.codec import decode
from esper.topics.models import Blueprint
from esper.workers.cli import app

BOTTLENECK: dict[str, Any] = {
    "blueprint_id": "bottleneck",
    "kind": ["vector", "sequence"],
    "parameters": {"width": {"default": "max(2, D//4)", "most": 64}},
    "nodes": [
        {"id": "down", "op": "linear", "inputs": ["h"], "args": {"out": "width"}},
        {"id": "active", "op": "relu", "inputs": ["down"]},
        {"id": "up", "op": "linear", "inputs": ["active"], "args": {"out": "D"}},
    ],
    "output": "up",
}


def esper(*words: str, given: dict[str, Any] | str | None = None) -> Result:
    """Run the command in a terminal of 160 columns, with a document on its standard input."""
    text = given if isinstance(given, str) else orjson.dumps(given).decode()
    return CliRunner().invoke(app, list(words), input=text, env={"COLUMNS": "160"})


def checked(*words: str, **changes: Any) -> Result:
    return esper("blueprint", "check", "-", *words, given=BOTTLENECK | changes)


def test_a_check_without_a_site_says_what_may_be_chosen() -> None:
    ended = checked()
    assert ended.exit_code == 0
    assert "3 nodes for vector and sequence sites, well formed" in ended.stdout
    assert "width: 1 to 64, by default max(2, D//4)" in ended.stdout


def test_a_check_at_a_site_shows_shapes_costs_and_totals() -> None:
    ended = checked("--site", "sequence:5x16")
    assert ended.exit_code == 0, ended.stdout
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in ended.stdout.splitlines()]
    assert "bottleneck at sequence:5x16, width 4" in ended.stdout
    assert [row for row in rows if row] == [
        ["down", "linear(h, out=4)", "5x4", "68", "640", "80 B"],
        ["active", "relu(down)", "5x4", "0", "20", "80 B"],
        ["up", "linear(active, out=16)", "5x16", "80", "640", "320 B"],
        ["total", "", "", "148", "1.3 k", "480 B"],
    ]


def test_the_shape_of_x_may_differ_and_sites_may_be_several() -> None:
    nodes = [{"id": "map", "op": "linear", "inputs": ["x"], "args": {"out": "D"}}]
    changes = {"nodes": nodes, "output": "map", "parameters": {}}
    ended = checked("--json", "--site", "vector:3:8", "--site", "vector:8", **changes)
    document = orjson.loads(ended.stdout)
    assert [site["params"] for site in document["sites"]] == [3 * 8 + 8, 8 * 8 + 8]
    assert document["sites"][0]["site"] == "vector:3:8"


def test_a_parameter_may_be_chosen() -> None:
    ended = checked("--json", "--site", "vector:16", "--set", "width=7")
    document = orjson.loads(ended.stdout)
    assert document["blueprint_id"] == "bottleneck.width-7"
    assert document["sites"][0]["values"] == {"width": 7}
    assert document["sites"][0]["nodes"][0]["output"] == [7]


@pytest.mark.parametrize(
    ("words", "changes", "says"),
    [
        (("--set", "width=65"), {}, "value 'width': 65 is not from 1 to 64"),
        (("--set", "depth=1"), {}, "value 'depth': no such parameter"),
        (("--site", "feature_map:1x2x3"), {}, "cannot serve a feature_map"),
        (("--site", "vector:8:9"), {"output": "down"}, "node 'up': the output does not depend"),
        ((), {"kind": "vectr"}, "kind"),
        ((), {"nodes": BOTTLENECK["nodes"][:1]}, "the output 'up' is not a node"),
        (
            ("--site", "vector:8"),
            {"nodes": [BOTTLENECK["nodes"][0], {"id": "up", "op": "add", "inputs": ["h", "down"]}]},
            "at vector:8: node 'up', add: (8,) and (2,)",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    words: tuple[str, ...], changes: dict[str, Any], says: str
) -> None:
    ended = checked(*words, **changes)
    assert ended.exit_code == 1
    (line,) = ended.stdout.splitlines()
    assert says in line


def test_programs_read_what_is_wrong_as_a_document() -> None:
    ended = checked("--json", "--site", "feature_map:1x2x3")
    assert ended.exit_code == 1
    rejected = orjson.loads(ended.stdout)["rejected"]
    assert (rejected["code"], rejected["site"]) == ("wrong-kind", "feature_map:1x2x3")


@pytest.mark.parametrize(
    "words",
    [
        ("--site", "vector"),
        ("--site", "vector:"),
        ("--site", "vector:8x"),
        ("--site", "vector:0"),
        ("--site", "vector:-8"),
        ("--site", "vector:8x8"),
        ("--site", "vector:8:8:8"),
        ("--site", "map:8"),
        ("--site", "vector:9999999999"),
        ("--set", "width"),
        ("--set", "width=wide"),
        ("--set", "=3"),
    ],
)
def test_a_site_or_value_that_cannot_be_read_is_wrong_use(words: tuple[str, ...]) -> None:
    ended = checked(*words)
    assert ended.exit_code == 2
    assert words[1].partition(":")[0] in ended.stderr


def test_the_list_names_every_kind_of_every_blueprint() -> None:
    ended = esper("blueprint", "list")
    assert ended.exit_code == 0
    assert all(blueprint.blueprint_id in ended.stdout for blueprint in shipped())
    assert "vector, sequence" in ended.stdout


def test_the_table_of_ops_is_whole_and_has_nothing_that_an_author_may_not_name() -> None:
    document = orjson.loads(esper("blueprint", "ops", "--json").stdout)
    assert {row["op"] for row in document} == {row.name for row in OPS.values() if not row.internal}
    assert "out, kernel=3 of 1, 3, 5, 7" in esper("blueprint", "ops").stdout


def test_what_is_published_with_a_value_is_the_member_of_the_family(
    kafka: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap_servers)
    create_topics(kafka.bootstrap_servers)
    file = tmp_path / "bottleneck.json"
    file.write_bytes(orjson.dumps(BOTTLENECK))
    ended = esper("blueprint", "publish", str(file), "--set", "width=7")
    assert ended.exit_code == 0, ended.stdout
    assert ended.stdout.startswith("bottleneck.width-7: offset ")
    record = read_topic(
        kafka.bootstrap_servers, BLUEPRINT_SUBMITTED.name, key=b"bottleneck.width-7"
    )[-1]
    assert decode(Blueprint, record.value).values == {"width": 7}


def test_shipped_blueprints_are_published_as_they_are() -> None:
    ended = esper("blueprint", "publish", "--shipped", "--set", "width=7")
    assert ended.exit_code == 2


def test_a_check_at_a_site_does_not_load_torch() -> None:
    program = (
        "import sys; from esper.workers.cli import app\n"
        "try: app(['blueprint', 'check', '-', '--site', 'vector:8'])\n"
        "except SystemExit as end: sys.exit(end.code or ('torch' in sys.modules))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        input=orjson.dumps(BOTTLENECK),
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
