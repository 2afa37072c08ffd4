"""`esper dlq`: list, show, replay and purge on a real broker."""

import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from esper.topics.bus import Bus, Record, create_topics, read_topic
from esper.topics.bus.dead_letter import dead_letter_headers, dead_letter_key
from esper.topics.catalog import BLUEPRINT_SUBMITTED
from esper.workers.cli import app
from tests.raw_batch import RawRecord, write_batch
from tests.waiting import TIMEOUT_S

TOPIC = BLUEPRINT_SUBMITTED.name


@pytest.fixture(scope="module", autouse=True)
def servers(own_kafka: Any) -> Iterator[str]:
    """Return the address of a broker with the topics and no dead letters."""
    create_topics(own_kafka.bootstrap_servers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KAFKA_BOOTSTRAP_SERVERS", own_kafka.bootstrap_servers)
        yield own_kafka.bootstrap_servers


def esper(*words: str, answer: str = "") -> Result:
    return CliRunner().invoke(app, ["dlq", *words], input=answer, env={"COLUMNS": "200"})


def write_dead_letter(
    servers: str, value: bytes, *, key: bytes = b"k", reason: str = "bad field"
) -> int:
    """Write a dead letter as the workers do; return its offset."""
    original = Record(TOPIC, 0, 7, 0, key, value, (("ce_id", b"1"),))
    named = dead_letter_headers(original, reason)
    headers = [(name.encode(), text) for name, text in named]
    letter = RawRecord(dead_letter_key(original), value, headers)
    write_batch(servers, BLUEPRINT_SUBMITTED.dead_letters, [letter])
    return read_topic(servers, BLUEPRINT_SUBMITTED.dead_letters)[-1].offset


def test_without_dead_letters_the_list_says_so(servers: str) -> None:
    assert esper("purge", TOPIC, "--yes").exit_code == 0
    assert esper("list", TOPIC).output == "no dead letters\n"


def test_a_dead_letter_is_listed_with_reason_and_origin(servers: str) -> None:
    reason = f"bad {secrets.token_hex(4)}"
    offset = write_dead_letter(servers, b'{"a": 1}', reason=reason)
    assert reason in esper("list").output
    listed = json.loads(esper("list", TOPIC, "--json").output)[-1]
    assert (listed["offset"], listed["reason"], listed["origin"]) == (offset, reason, "[0]@7")
    assert listed["bytes"] == 8


def test_a_dead_letter_is_shown_whole_and_safely(servers: str) -> None:
    offset = write_dead_letter(servers, b"\x1b[31mred\xff", reason="not JSON")
    shown = esper("show", TOPIC, str(offset)).output
    assert "\\x1b[31mred\\xff" in shown
    assert "\x1b" not in shown
    assert "header ce_id: 1" in shown
    raw = CliRunner().invoke(app, ["dlq", "show", TOPIC, str(offset), "--raw"])
    assert raw.stdout_bytes == b"\x1b[31mred\xff"


def test_a_replayed_dead_letter_is_on_its_topic_again(servers: str) -> None:
    value = json.dumps({"marker": secrets.token_hex(4)}).encode()
    offset = write_dead_letter(servers, value, key=b"author")
    result = esper("replay", TOPIC, str(offset))
    assert result.exit_code == 0, result.output
    last = read_topic(servers, TOPIC)[-1]
    assert (last.key, last.value) == (b"author", value)


def test_a_cut_dead_letter_is_not_replayed_and_its_origin_is_named(servers: str) -> None:
    offset = write_dead_letter(servers, b"{}", key=bytes(5000))
    before = len(read_topic(servers, TOPIC))
    result = esper("replay", TOPIC, str(offset))
    assert f"it is not whole; read the original at {TOPIC}[0]@7" in str(result.exception)
    assert esper("replay", TOPIC, "--all").exit_code == 0
    keys = [record.key for record in read_topic(servers, TOPIC)[before:]]
    assert all(len(key or b"") < 4096 for key in keys)


@pytest.mark.parametrize("words", [("replay", TOPIC), ("replay", TOPIC, "1", "--all")])
def test_replay_needs_offsets_or_all(words: tuple[str, ...]) -> None:
    result = esper(*words)
    assert result.exit_code == 2
    assert "give offsets, or --all" in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("list", "nowhere"), "there is no topic 'nowhere'; topics are: blueprint-submitted"),
        (("show", TOPIC, "999999"), "has no dead letter at offset 999999; see `esper dlq list"),
    ],
)
def test_an_unknown_topic_or_offset_is_an_error_with_the_remedy(
    words: tuple[str, ...], message: str
) -> None:
    assert message in str(esper(*words).exception)


def test_purge_asks_and_deletes(servers: str) -> None:
    first, second = write_dead_letter(servers, b"1"), write_dead_letter(servers, b"2")
    assert esper("purge", TOPIC, answer="n\n").exit_code == 1
    assert esper("purge", TOPIC, "--before", str(second), "--yes").exit_code == 0
    left = [record.offset for record in read_topic(servers, BLUEPRINT_SUBMITTED.dead_letters)]
    assert first not in left
    assert second in left
    assert "deleted" in esper("purge", TOPIC, answer="y\n").output
    assert read_topic(servers, BLUEPRINT_SUBMITTED.dead_letters) == []
    bus = Bus.connect(servers, source="/esper/test")
    bus.send(BLUEPRINT_SUBMITTED.dead_letters, None, b"later").result(TIMEOUT_S)
    bus.close()
    assert len(read_topic(servers, BLUEPRINT_SUBMITTED.dead_letters)) == 1
