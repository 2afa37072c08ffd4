"""The catalog: names, keys and partitions that every process agrees on."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from esper.topics.catalog import (
    ADAPTATION_DECISION,
    DECISION_CANDIDATES,
    SEED_METRICS,
    TABLES,
    TOPICS,
    WORK_PARTITIONS,
    Cleanup,
    Table,
    Topic,
    topic_specs,
)
from esper.topics.models import SeedReport
from esper.workers.faust import bytes_table, make_app
from tests.topics.events import EVENTS

SPECS = {spec.name: spec for spec in topic_specs()}


def test_the_topics_are_those_of_the_design() -> None:
    assert {(topic.name, topic.key, topic.partitions, topic.cleanup.value) for topic in TOPICS} == {
        ("blueprint-submitted", "blueprint_id", 1, "delete"),
        ("training-run", "run_id", 1, "compact"),
        ("kernel-requested", "kernel_id", 12, "delete"),
        ("kernel-compiled", "kernel_id", 12, "delete"),
        ("kernel-ready", "kernel_id", 48, "compact"),
        ("kernel-revoked", "sha256", 1, "compact"),
        ("audition-requested", "kernel_id", 12, "delete"),
        ("kernel-auditioned", "run_id", 12, "delete"),
        ("seed-metrics", "run_id", 12, "delete"),
        ("adaptation-decision", "run_id", 12, "delete"),
        ("decision-candidates", "run_id", 12, "delete"),
        ("run-control", "run_id", 12, "delete"),
    }


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_the_key_is_a_required_field_of_the_event(topic: Topic) -> None:
    assert topic.model.model_fields[topic.key].is_required()
    assert topic.model in EVENTS


@settings(max_examples=10, suppress_health_check=list(HealthCheck))
@given(EVENTS[SeedReport])
def test_the_key_of_an_event_is_the_field_as_bytes(report: SeedReport) -> None:
    assert SEED_METRICS.key_of(report) == report.run_id.encode()


def test_reports_and_decisions_of_a_run_are_in_partitions_of_the_same_number() -> None:
    topics = (SEED_METRICS, ADAPTATION_DECISION, DECISION_CANDIDATES)
    assert {topic.partitions for topic in topics} == {WORK_PARTITIONS}


def test_candidates_are_kept_as_long_as_the_decisions_with_their_digest() -> None:
    assert DECISION_CANDIDATES.retention_ms == ADAPTATION_DECISION.retention_ms


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_every_topic_has_a_dead_letter_topic_with_a_retention_time(topic: Topic) -> None:
    spec = SPECS[f"{topic.name}.dlq"]
    assert spec.name == topic.dead_letters
    assert spec.partitions == 1
    assert dict(spec.config)["cleanup.policy"] == "delete"


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.changelog)
def test_a_changelog_has_the_name_that_faust_gives_it_and_the_partitions_of_its_source(
    table: Table, tmp_path: Path
) -> None:
    """A missing changelog, or another partition count, makes Faust lose every record."""
    app = make_app(table.app, bootstrap_servers="nowhere:1", data_dir=tmp_path / "data")
    faust_topic = bytes_table(app, table.name, table.source.partitions).changelog_topic
    assert list(faust_topic.topics) == [table.changelog]
    spec = SPECS[table.changelog]
    assert spec.partitions == table.source.partitions == faust_topic.partitions
    assert dict(spec.config)["cleanup.policy"] == Cleanup.COMPACT.value


def test_no_name_appears_twice() -> None:
    names = [spec.name for spec in topic_specs()]
    assert len(names) == len(set(names))


def test_compacted_topics_have_no_retention_time() -> None:
    assert "retention.ms" not in dict(SPECS["kernel-ready"].config)
