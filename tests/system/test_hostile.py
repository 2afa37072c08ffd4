"""The hostile corpus, published by a foreign client on the real topic to a real worker."""

import secrets
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import psutil
import pytest

from esper.blueprint import BlueprintRejected, check, kernel_id, request_for, shipped_named
from esper.topics.bus import Bus, Record, StartOffset
from esper.topics.catalog import BLUEPRINT_SUBMITTED, KERNEL_COMPILED, TRAINING_RUN
from esper.topics.codec import Undecodable, decode
from esper.topics.models import Blueprint, CompileStatus, KernelCompiled, RunStatus, TrainingRun
from esper.workers.cli import publish_blueprints
from tests.compiler.hostile.corpus import SITES, UNDECODABLE, Hostile, corpus
from tests.system.conftest import Running, publish_as_foreign_client
from tests.waiting import wait_until

NAMES = ("map", "vector", "sequence")
"""One open site of every kind, so that a blueprint is compiled once; no large sites."""

MEBIBYTE = 1 << 20
MAX_GROWTH = 256 * MEBIBYTE
BUILT = "built"

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]


@cache
def published_entries() -> tuple[Hostile, ...]:
    """Return the entries to publish: those for these sites that break no time limit.

    Each gets a blueprint id of its own: a blueprint replaces the one that has its id.
    """
    sites = [SITES[name] for name in NAMES]
    chosen = (entry for entry in corpus() if entry.site in sites and not entry.slow)
    return tuple(_with_own_id(entry, number) for number, entry in enumerate(chosen))


def _with_own_id(entry: Hostile, number: int) -> Hostile:
    try:
        decode(Blueprint, entry.value)
    except Undecodable:
        return entry
    return replace(entry, value=entry.value.replace(b'"hostile"', b'"hostile-%d"' % number))


@pytest.fixture(autouse=True)
def open_run(running: Running, bus: Bus) -> Iterator[None]:
    """Keep a run open that has a site of every kind."""
    run = TrainingRun(
        run_id=f"hostile-{secrets.token_hex(4)}",
        status=RunStatus.OPEN,
        sites={name: SITES[name] for name in NAMES},
        kernels_per_site=10_000,
        kernels_per_publisher=10_000,
    )
    bus.publish(TRAINING_RUN, run).result(timeout=60)
    yield
    closed = run.model_copy(update={"status": RunStatus.CLOSED})
    bus.publish(TRAINING_RUN, closed).result(timeout=60)


def answers_due() -> dict[str, str]:
    """The codes that must be answered, by kernel id, to all that can be decoded."""
    due = {}
    for entry in published_entries():
        try:
            blueprint = decode(Blueprint, entry.value)
            check(blueprint)
        except Undecodable:
            continue
        except BlueprintRejected:
            due[kernel_id(blueprint, None)] = entry.expected
        else:
            # The planner requests a blueprint only at sites of its kinds.
            if entry.site.kind in blueprint.kinds:
                due[kernel_id(blueprint, entry.site)] = entry.expected
    return due


def memory_of_worker(running: Running) -> int:
    """Return the resident bytes of the compile worker and its processes."""
    (pid,) = (service.pid for service in running.stack.status() if service.name == "compile")
    worker = psutil.Process(pid)
    return sum(entry.memory_info().rss for entry in (worker, *worker.children(recursive=True)))


def test_a_worker_answers_every_hostile_blueprint_and_keeps_running(
    running: Running, bus: Bus
) -> None:
    answers: dict[str, str] = {}
    dead: list[bytes] = []

    def note(record: Record) -> None:
        event = decode(KernelCompiled, record.value)
        if event.status is not CompileStatus.STARTED:
            answers[event.kernel_id] = event.reason_code or BUILT

    bus.consume(KERNEL_COMPILED.name, note, start=StartOffset.LATEST)
    bus.consume(
        BLUEPRINT_SUBMITTED.dead_letters,
        lambda record: dead.append(record.value or b""),
        start=StartOffset.LATEST,
    )
    # The hostile blueprints share a name; one that is read before the run would get no answer.
    first = shipped_named("pointwise-mix")
    publish_blueprints(running.settings, [first])
    first_kernel = request_for(first, SITES["map"]).kernel_id
    wait_until(lambda: first_kernel in answers, "the run to be known to the planner")

    due = answers_due()
    undecodable = Counter(
        entry.value for entry in published_entries() if entry.expected == UNDECODABLE
    )
    assert len(due) >= 250
    memory_before = memory_of_worker(running)

    publish_as_foreign_client(running, *(entry.value for entry in published_entries()))
    wait_until(lambda: due.keys() <= answers.keys(), "every answer", 240)
    wait_until(lambda: len(dead) >= undecodable.total(), "every dead letter")

    assert {name: answers[name] for name in due} == due
    assert Counter(dead) == undecodable
    honest = shipped_named("conv-bottleneck")
    publish_blueprints(running.settings, [honest])
    wanted = request_for(honest, SITES["map"]).kernel_id
    wait_until(lambda: answers.get(wanted) == BUILT, "an honest kernel")
    assert memory_of_worker(running) - memory_before < MAX_GROWTH
