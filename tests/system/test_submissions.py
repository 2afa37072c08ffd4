"""Valid and invalid records of foreign clients on `blueprint-submitted`."""

import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from esper.topics.bus import Bus, Record, StartOffset, read_topic
from esper.topics.catalog import BLUEPRINT_SUBMITTED, KERNEL_COMPILED, KERNEL_READY, TRAINING_RUN
from esper.topics.codec import decode
from esper.topics.models import (
    CompileStatus,
    KernelCompiled,
    KernelReady,
    RunStatus,
    SiteKind,
    SiteSignature,
    TrainingRun,
)
from tests.system.conftest import Running, publish_as_foreign_client
from tests.waiting import wait_until

SITE = SiteSignature(kind=SiteKind.FEATURE_MAP, x=(4, 6, 6), h=(4, 6, 6))


def blueprint(name: str, **changes: Any) -> dict[str, Any]:
    """Return a valid blueprint as plain JSON, with changes."""
    conv = {"id": "mix", "op": "conv2d", "inputs": ["h"], "args": {"out": "C", "kernel": 3}}
    valid = {"blueprint_id": name, "kind": "feature_map", "nodes": [conv], "output": "mix"}
    return valid | changes


def unique(name: str) -> str:
    return f"{name}-{secrets.token_hex(4)}"


@pytest.fixture(scope="module", autouse=True)
def open_run(running: Running) -> Iterator[None]:
    """A run with one feature map site, so that valid blueprints are compiled."""
    bus = Bus.connect(running.settings.kafka_bootstrap_servers, source="/esper/test")
    run = TrainingRun(run_id=unique("submissions"), status=RunStatus.OPEN, sites={"conv": SITE})
    bus.publish(TRAINING_RUN, run).result(timeout=60)
    yield
    closed = run.model_copy(update={"status": RunStatus.CLOSED})
    bus.publish(TRAINING_RUN, closed).result(timeout=60)
    bus.close()


class Watch:
    """Collects the later records of a topic."""

    def __init__(self, bus: Bus, topic: str) -> None:
        self.records: list[Record] = []
        bus.consume(topic, self.records.append, start=StartOffset.LATEST)


def compiled(records: list[Record], name: str) -> KernelCompiled | None:
    events = (decode(KernelCompiled, record.value) for record in records)
    ended = (event for event in events if event.status is not CompileStatus.STARTED)
    return next((event for event in ended if event.blueprint_id == name), None)


def assert_worker_compiles(running: Running, bus: Bus) -> None:
    watch = Watch(bus, KERNEL_READY.name)
    name = unique("afterwards")
    publish_as_foreign_client(running, json.dumps(blueprint(name)).encode())
    wait_until(lambda: ready(watch.records, name), "the next blueprint to be compiled")


def ready(records: list[Record], name: str) -> KernelReady | None:
    """Return the kernel of a blueprint at this module's site; other runs may be open."""
    events = (decode(KernelReady, record.value) for record in records)
    return next(
        (event for event in events if event.blueprint_id == name and event.site_signature == SITE),
        None,
    )


def test_plain_json_from_another_client_becomes_a_kernel(running: Running, bus: Bus) -> None:
    watch = Watch(bus, KERNEL_READY.name)
    name = unique("foreign")
    publish_as_foreign_client(running, json.dumps(blueprint(name)).encode())
    kernel = wait_until(lambda: ready(watch.records, name), "kernel-ready")
    assert kernel.params == 4 * 4 * 9 + 4


@pytest.mark.parametrize(
    "value",
    [
        b"\xff\xfenot json",
        b"",
        b"[1, 2, 3]",
        b'{"blueprint_id": "no-nodes", "kind": "feature_map", "output": "x"}',
        json.dumps(blueprint("Has Spaces/../..")).encode(),
        json.dumps(blueprint("too-many-nodes", nodes=[{}] * 100_000)).encode(),
    ],
    ids=["not-json", "empty", "not-an-object", "field-missing", "bad-id", "100000-empty-nodes"],
)
def test_an_invalid_record_is_copied_to_the_dead_letters_unchanged(
    running: Running, bus: Bus, value: bytes
) -> None:
    watch = Watch(bus, BLUEPRINT_SUBMITTED.dead_letters)
    publish_as_foreign_client(running, value)
    dead = wait_until(lambda: watch.records and watch.records[0], "a dead letter")
    headers = dict(dead.headers)
    assert (dead.value or b"") == value
    assert headers["dlq-topic"] == BLUEPRINT_SUBMITTED.name.encode()
    assert headers["dlq-reason"].startswith(b"Blueprint: ")
    original = read_topic(running.settings.kafka_bootstrap_servers, BLUEPRINT_SUBMITTED.name)
    assert {str(one.offset).encode(): one.value for one in original}[
        headers["dlq-offset"]
    ] == dead.value
    assert_worker_compiles(running, bus)


def node(name: str, op: str, inputs: list[str], **args: Any) -> dict[str, Any]:
    return {"id": name, "op": op, "inputs": inputs, "args": args}


INVALID = {
    "unknown-op": blueprint("x", nodes=[node("mix", "rm_rf", ["h"])]),
    "unknown-argument": blueprint(
        "x", nodes=[node("mix", "conv2d", ["h"], out="C", kernel=3, padding_mode=1)]
    ),
    "cycle": blueprint("x", nodes=[node("mix", "add", ["h", "mix"])]),
    "output-shape": blueprint("x", nodes=[node("mix", "conv2d", ["h"], out="2*C", kernel=1)]),
    "bad-expression": blueprint("x", nodes=[node("mix", "conv2d", ["h"], out="C**C**C", kernel=1)]),
    "bad-size": blueprint("x", nodes=[node("mix", "conv2d", ["h"], out="C-C", kernel=1)]),
    "too-many-parameters": blueprint(
        "x",
        nodes=[
            node("wide", "conv2d", ["h"], out="262144", kernel=1),
            node("mix", "conv2d", ["wide"], out="C", kernel=7),
        ],
    ),
}


@pytest.mark.parametrize("code", INVALID)
def test_an_invalid_blueprint_is_rejected_with_a_reason(
    running: Running, bus: Bus, code: str
) -> None:
    watch = Watch(bus, KERNEL_COMPILED.name)
    name = unique("invalid")
    publish_as_foreign_client(running, json.dumps(INVALID[code] | {"blueprint_id": name}).encode())
    rejected = wait_until(lambda: compiled(watch.records, name), "a rejection")
    assert rejected.status is CompileStatus.REJECTED
    assert rejected.reason_code == code
    assert rejected.reason
    assert_worker_compiles(running, bus)


def test_a_graph_of_100000_nodes_is_a_dead_letter_and_the_worker_keeps_running(
    running: Running, bus: Bus
) -> None:
    chain = [node("n0", "relu", ["h"])]
    chain += [node(f"n{i}", "relu", [f"n{i - 1}"]) for i in range(1, 100_000)]
    watch = Watch(bus, BLUEPRINT_SUBMITTED.dead_letters)
    huge = json.dumps(blueprint("huge", nodes=chain, output="n99999"), separators=(",", ":"))
    publish_as_foreign_client(running, huge.encode())
    dead = wait_until(lambda: watch.records and watch.records[0], "a dead letter")
    assert b"128" in dict(dead.headers)["dlq-reason"]
    assert_worker_compiles(running, bus)
