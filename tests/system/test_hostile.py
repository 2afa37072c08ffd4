"""The hostile corpus, published by a stranger on the real topic, with a real worker to harm."""

import secrets
from collections import Counter
from collections.abc import Iterator
from functools import cache

import psutil
import pytest

from esper.blueprint import BlueprintRejected, check, kernel_id, request_for, shipped_named
from esper.topics.bus import Bus, StartOffset
from esper.topics.catalog import BLUEPRINT_SUBMITTED, KERNEL_COMPILED, TRAINING_RUN
from esper.topics.codec import Undecodable, decode
from esper.topics.models import Blueprint, KernelCompiled, RunStatus, TrainingRun
from esper.workers.cli import publish_blueprints
from tests.compiler.hostile.corpus import SITES, UNDECODABLE, Hostile, corpus
from tests.system.conftest import Running, publish_as_a_stranger
from tests.waiting import wait_until

NAMES = ("map", "vector", "sequence")
"""One open site of each kind, so that each blueprint is compiled once; no large ones."""

MEBIBYTE = 1 << 20
MAX_GROWTH = 256 * MEBIBYTE
BUILT = "built"


@cache
def arriving() -> tuple[Hostile, ...]:
    """What is published: all that is meant for these sites and breaks no limit of time."""
    sites = [SITES[name] for name in NAMES]
    return tuple(entry for entry in corpus() if entry.site in sites and not entry.slow)


@pytest.fixture(autouse=True)
def open_run(running: Running, bus: Bus) -> Iterator[None]:
    """A run with a site of each kind."""
    run = TrainingRun(
        run_id=f"hostile-{secrets.token_hex(4)}",
        status=RunStatus.OPEN,
        sites={name: SITES[name] for name in NAMES},
    )
    bus.publish(TRAINING_RUN, run).result(timeout=30)
    yield
    closed = run.model_copy(update={"status": RunStatus.CLOSED})
    bus.publish(TRAINING_RUN, closed).result(timeout=30)


def answers_due() -> dict[str, str]:
    """The codes that must be answered, by kernel id, to all that can be decoded."""
    due = {}
    for entry in arriving():
        try:
            blueprint = decode(Blueprint, entry.value)
            check(blueprint)
        except Undecodable:
            continue
        except BlueprintRejected:
            due[kernel_id(blueprint, None)] = entry.expected
        else:
            # At a site of another kind than its own it is never asked for.
            if entry.site.kind in blueprint.kinds:
                due[kernel_id(blueprint, entry.site)] = entry.expected
    return due


def memory_of_worker(running: Running) -> int:
    """Bytes that the compile worker and its processes hold."""
    (pid,) = (service.pid for service in running.stack.status() if service.name == "compile")
    worker = psutil.Process(pid)
    return sum(entry.memory_info().rss for entry in (worker, *worker.children(recursive=True)))


def test_a_worker_answers_all_that_is_hostile_and_goes_on(running: Running, bus: Bus) -> None:
    answers: dict[str, str] = {}
    dead: list[bytes] = []
    bus.consume(
        KERNEL_COMPILED.name,
        lambda record: answers.update([answer_of(decode(KernelCompiled, record.value))]),
        start=StartOffset.LATEST,
    )
    bus.consume(
        BLUEPRINT_SUBMITTED.dead_letters,
        lambda record: dead.append(record.value or b""),
        start=StartOffset.LATEST,
    )
    # Blueprints here share a name, so one that is read before the run would be planned for nothing.
    opener = shipped_named("pointwise-mix")
    publish_blueprints(running.settings, [opener])
    opened = request_for(opener, SITES["map"]).kernel_id
    wait_until(lambda: opened in answers, "the run to be known to the planner")

    due = answers_due()
    letters = Counter(element.value for element in arriving() if element.expected == UNDECODABLE)
    assert len(due) >= 250
    memory_before = memory_of_worker(running)

    publish_as_a_stranger(running, *(entry.value for entry in arriving()))
    wait_until(lambda: due.keys() <= answers.keys(), "every answer", 90)
    wait_until(lambda: len(dead) >= letters.total(), "every dead letter")

    assert {name: answers[name] for name in due} == due
    assert Counter(dead) == letters
    honest = shipped_named("conv-bottleneck")
    publish_blueprints(running.settings, [honest])
    wanted = request_for(honest, SITES["map"]).kernel_id
    wait_until(lambda: answers.get(wanted) == BUILT, "an honest kernel")
    assert memory_of_worker(running) - memory_before < MAX_GROWTH


def answer_of(event: KernelCompiled) -> tuple[str, str]:
    """The kernel an event is about, and the code it brings."""
    return event.kernel_id, event.reason_code or BUILT
