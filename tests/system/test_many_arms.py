"""Runs with more arms than a decision lists, over the real broker and workers."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from esper.audit import RunRecords, audit, fetch_history, read_history, write_history
from esper.blueprint import shipped
from esper.orchestrator import LISTED_CANDIDATES
from esper.topics.bus import Bus, Record, create_topics, read_topic
from esper.topics.catalog import ADAPTATION_DECISION, DECISION_CANDIDATES, SEED_METRICS
from esper.topics.codec import decode
from esper.topics.models import AdaptationDecision, DecisionCandidates
from esper.workers.cli import publish_blueprints
from esper.workers.local import KafkaService
from tests.orchestrator.trainer import Trainer, kernel
from tests.system.conftest import Running
from tests.system.training import Training
from tests.waiting import wait_until

SITES = 10
BLUEPRINTS = 30
REPORTS = 12

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def kafka(own_kafka: KafkaService) -> KafkaService:
    """A broker whose configuration these tests change."""
    return own_kafka


def wide_run() -> Trainer:
    """Return a closed run of 300 arms; its reports lead to the same operations in a worker."""
    sites = [f"layer{number}" for number in range(SITES)]
    trainer = Trainer(
        dict.fromkeys(sites, 1),
        run_id=f"wide-{secrets.token_hex(4)}",
        listed_candidates=LISTED_CANDIDATES,
    )
    trainer.report()
    names = [f"blueprint-{number}" for number in range(BLUEPRINTS)]
    decisions = trainer.report(*(kernel(site, name) for site in sites for name in names))
    while trainer.seq < REPORTS - 1:
        trainer.accept(decisions)
        decisions = trainer.report(contributions=dict.fromkeys(trainer.seeds, 0.2))
    trainer.report(closing=True)
    return trainer


def publish(bus: Bus, reports: list[Record]) -> None:
    for record in reports:
        bus.send(SEED_METRICS.name, record.key, record.value or b"").result(timeout=60)


def records(running: Running, topic: str, run_id: str) -> list[Record]:
    return read_topic(running.settings.kafka_bootstrap_servers, topic, key=run_id.encode())


def sealed(running: Running, trainer: Trainer) -> RunRecords:
    """Wait until the run is sealed; return its records."""

    def last() -> bool:
        found = records(running, ADAPTATION_DECISION.name, trainer.run_id)
        return bool(found) and decode(AdaptationDecision, found[-1].value).seq == REPORTS - 1

    wait_until(last, "the decision on the closing report", 120)
    return fetch_history(running.settings.kafka_bootstrap_servers, trainer.run_id)


def test_the_worker_publishes_the_candidates_that_decisions_hold_the_digest_of(
    running: Running, bus: Bus, tmp_path: Path
) -> None:
    trainer = wide_run()
    publish(bus, trainer.reports)
    history = sealed(running, trainer)

    assert len(history.decisions) == len(trainer.decisions) > 3
    assert len(history.candidates) == len(trainer.candidates) == len(history.decisions)
    for record in history.decisions:
        decision = decode(AdaptationDecision, record.value)
        assert LISTED_CANDIDATES <= len(decision.candidates) <= LISTED_CANDIDATES + 2
        assert decision.other_candidates is not None
        assert decision.other_candidates.count + len(decision.candidates) == SITES * BLUEPRINTS
        assert len(record.value or b"") < 10_000
    verdict = audit(history)
    assert verdict.finding is None
    assert verdict.candidate_records == len(history.candidates)

    write_history(history, tmp_path / "run.history.jsonl")
    assert audit(read_history(tmp_path / "run.history.jsonl")) == verdict


def test_a_worker_killed_between_candidates_and_decision_leaves_no_difference(
    running: Running, bus: Bus
) -> None:
    """The broker takes no decision meanwhile, so that the kill comes after the candidates."""
    trainer = wide_run()
    with no_decision_is_written(running):
        publish(bus, trainer.reports[:2])

        def candidates() -> list[Record]:
            return records(running, DECISION_CANDIDATES.name, trainer.run_id)

        wait_until(candidates, "candidates before their decision")
        running.stack.kill("bandit")
    assert records(running, ADAPTATION_DECISION.name, trainer.run_id) == []
    publish(bus, trainer.reports[2:])
    running.stack.restart("bandit")

    history = sealed(running, trainer)
    first = [record for record in history.candidates if _seq(record) == 1]
    assert len(first) == 2, "the restarted worker did not repeat the candidates"
    assert first[0].value == first[1].value
    verdict = audit(history)
    assert verdict.finding is None
    assert verdict.repeats >= 1
    assert verdict.candidate_records == len(trainer.candidates)


def _seq(record: Record) -> int:
    return decode(DecisionCandidates, record.value).seq


@contextmanager
def no_decision_is_written(running: Running) -> Iterator[None]:
    """Delete the topic of decisions, and create it again afterwards.

    A producer waits meanwhile. Requiring more replicas than there are would not stop it: Kafka 4
    caps `min.insync.replicas` at the number of replicas.
    """
    servers = running.settings.kafka_bootstrap_servers
    admin = AdminClient({"bootstrap.servers": servers})
    for deleted in admin.delete_topics([ADAPTATION_DECISION.name]).values():
        deleted.result(timeout=60)

    def is_absent() -> bool:
        return ADAPTATION_DECISION.name not in admin.list_topics(timeout=60).topics

    wait_until(is_absent, "the topic to be deleted")
    try:
        yield
    finally:
        create_topics(servers)


@pytest.mark.heavy
def test_a_training_with_more_kernels_than_a_decision_lists_is_audited_identical(
    running: Running,
) -> None:
    publish_blueprints(running.settings, shipped())
    training = Training(running, seed=3)
    with training.growth as growth:

        def lists_few() -> bool:
            return any(one.other_candidates for one in growth.run_history.decisions)

        training.train_until(lists_few, "a plan among more kernels than a decision lists")
    history = fetch_history(running.settings.kafka_bootstrap_servers, growth.run_id)
    assert history.candidates
    verdict = audit(history)
    assert verdict.finding is None
    assert verdict.closed
    assert verdict.candidate_records > 0
