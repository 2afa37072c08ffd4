"""`esper blueprint withdraw` on a real broker: a tombstone for each id."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from esper.blueprint import Submissions, shipped_named
from esper.settings import Settings
from esper.topics.bus import create_topics, read_topic
from esper.topics.catalog import BLUEPRINT_SUBMITTED
from esper.workers.cli import app, publish_blueprints
from esper.workers.cli.publish import UnknownBlueprint


@pytest.fixture(scope="module", autouse=True)
def servers(own_kafka: Any) -> Iterator[str]:
    """Return the address of a broker with the topics."""
    create_topics(own_kafka.bootstrap_servers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KAFKA_BOOTSTRAP_SERVERS", own_kafka.bootstrap_servers)
        yield own_kafka.bootstrap_servers


def withdraw(*words: str) -> Result:
    return CliRunner().invoke(app, ["blueprint", "withdraw", *words], env={"COLUMNS": "200"})


def standing(servers: str) -> list[str]:
    found = Submissions()
    for record in read_topic(servers, BLUEPRINT_SUBMITTED.name):
        found.read(record.key, record.value, record.headers)
    return [submission.blueprint.blueprint_id for submission in found]


def test_withdrawn_blueprints_no_longer_stand_and_can_be_published_again(servers: str) -> None:
    names = ("gated-conv", "film", "identity")
    publish_blueprints(Settings(), map(shipped_named, names))
    assert withdraw("film").output == "film: withdrawn at offset 3\n"
    listed = json.loads(withdraw("gated-conv", "--json").output)
    assert listed == [{"blueprint_id": "gated-conv", "offset": 4}]
    assert standing(servers) == ["identity"]

    unknown = withdraw("identity", "film")
    assert unknown.exit_code == 1
    assert isinstance(unknown.exception, UnknownBlueprint)
    assert str(unknown.exception).startswith("blueprint 'film' is not published")
    assert standing(servers) == ["identity"], "of several ids, none or all are withdrawn"

    publish_blueprints(Settings(), [shipped_named("film")])
    assert standing(servers) == ["identity", "film"]
