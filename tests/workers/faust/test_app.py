"""Creating and running a Faust app: refused topics, and no settings from the environment."""

import asyncio
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from esper.topics.bus import BrokerUnreachable
from esper.workers.faust.app import (
    EXIT_FAILED,
    EXIT_TOPICS_NOT_READY,
    TopicsNotReady,
    bytes_table,
    make_app,
    run,
    verify_topics,
)
from esper.workers.faust.guards import GuardedApp
from tests.waiting import TIMEOUT_S, wait_until


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Undo what `run` does to the logging of the process."""
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def topic(kafka: Any) -> str:
    """Return a topic with two partitions."""
    name = f"app-{uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    admin.create_topics([NewTopic(name, 2, 1)])[name].result(TIMEOUT_S)
    # The controller confirms a topic before the broker shows it.
    wait_until(lambda: name in admin.list_topics(timeout=TIMEOUT_S).topics, f"topic {name}")
    return name


def app_on(bootstrap_servers: str, directory: Path) -> GuardedApp:
    return make_app(
        f"app-{uuid4().hex[:8]}",
        bootstrap_servers=bootstrap_servers,
        data_dir=directory / "a" / "b",
    )


def test_every_missing_or_wrong_topic_is_named_with_the_remedy(kafka: Any, topic: str) -> None:
    with pytest.raises(TopicsNotReady) as refusal:
        asyncio.run(verify_topics(kafka.bootstrap_servers, {topic: 12, "missing-topic": 1}))
    line = str(refusal.value)
    assert f"{topic} has 2 partitions instead of 12" in line
    assert "missing-topic is missing" in line
    assert "esper topics create" in line
    assert "\n" not in line


def test_expected_topics_are_accepted(kafka: Any, topic: str) -> None:
    asyncio.run(verify_topics(kafka.bootstrap_servers, {topic: 2}))


def test_a_worker_without_its_topic_exits_with_2_and_one_line(
    kafka: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = app_on(kafka.bootstrap_servers, tmp_path)
    assert run(app, topics={"missing-topic": 1}) == EXIT_TOPICS_NOT_READY
    assert "missing-topic is missing; run `esper topics create`" in capsys.readouterr().err


def test_a_worker_without_its_changelog_exits_with_2_and_one_line(
    kafka: Any, topic: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = app_on(kafka.bootstrap_servers, tmp_path)
    bytes_table(app, "runs", partitions=2)
    assert run(app, topics={topic: 2}) == EXIT_TOPICS_NOT_READY
    assert f"{app.conf.id}-runs-changelog is missing" in capsys.readouterr().err


def test_a_worker_without_a_broker_exits_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    assert run(app_on(address, tmp_path), topics={}) == EXIT_FAILED
    assert str(BrokerUnreachable(address)) in capsys.readouterr().err


def test_the_environment_does_not_change_an_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faust prefers unprefixed environment variables to arguments."""
    monkeypatch.setenv("BROKER_URL", "kafka://elsewhere:1")
    monkeypatch.setenv("STREAM_WAIT_EMPTY", "false")
    monkeypatch.setenv("TOPIC_ALLOW_DECLARE", "true")
    app = app_on("here:2", tmp_path)
    assert [(url.host, url.port) for url in app.conf.broker] == [("here", 2)]
    assert app.conf.stream_wait_empty
    assert not app.conf.topic_allow_declare
