"""Reports that fail after decoding break their run alone: too large, or not to be stored."""

import orjson
import pytest
from confluent_kafka import Producer

from esper.topics.bus import partition_of
from esper.topics.catalog import SEED_METRICS
from esper.topics.codec import encode
from esper.topics.models import SeedState, SeedStatus, Selection
from esper.workers.bandit import RunEnd
from tests.system.test_bad_reports import (
    Scene,
    neighbour_of,
    report,
    run_config,
    run_id,
    scene,
)

__all__ = ["run_id", "scene"]

LARGE = 10**24


@pytest.mark.parametrize("field", ["report_interval_steps", "host_params", "seed"])
def test_an_integer_beyond_64_bits_is_a_dead_letter(scene: Scene, run_id: str, field: str) -> None:
    other = neighbour_of(run_id)
    fields = orjson.loads(encode(report(run_id, 0)))
    fields["run_config"][field] = "HERE"
    scene.send_bytes(run_id, orjson.dumps(fields).replace(b'"HERE"', str(LARGE).encode()))
    scene.send(report(other, 0))
    (reason,) = scene.reasons(run_id, 1)
    assert field in reason
    scene.folded_to(other, 0)


def test_a_run_whose_state_outgrows_the_table_is_broken_and_its_neighbour_is_not(
    scene: Scene, run_id: str
) -> None:
    """The state keeps each slot that was not dormant; two reports name 24,000 of them."""
    other = neighbour_of(run_id)
    broken = scene.counted("esper_runs_broken_total", "failed")
    config = run_config().model_copy(update={"selection": Selection()})
    scene.send(report(run_id, 0, run_config=config), report(other, 0))
    for seq, letter in enumerate("cd", start=1):
        seeds = (
            SeedStatus(site=letter * 150, slot=slot, state=SeedState.ACTIVE, alpha=1.0)
            for slot in range(12_000)
        )
        scene.send(report(run_id, seq, seeds=tuple(seeds)))
    scene.send(report(run_id, 3), report(other, 1))
    scene.folded_to(other, 1)
    too_large, *later = [reason for _, reason in scene.dead_letters(run_id)]
    assert "bytes, more than" in too_large
    assert all(reason.startswith("the run is broken") for reason in later)
    assert scene.ended(run_id).ended is RunEnd.BROKEN
    assert scene.counted("esper_runs_broken_total", "failed") == broken + 1


def test_a_report_on_the_partition_of_another_key_is_a_dead_letter(
    scene: Scene, run_id: str
) -> None:
    right = partition_of(run_id.encode(), SEED_METRICS.partitions)
    wrong = (right + 1) % SEED_METRICS.partitions
    producer = Producer({"bootstrap.servers": scene.running.settings.kafka_bootstrap_servers})
    producer.produce(
        SEED_METRICS.name, encode(report(run_id, 0)), key=run_id.encode(), partition=wrong
    )
    assert producer.flush(60) == 0
    (reason,) = scene.reasons(run_id, 1)
    assert f"partition {wrong}" in reason
    assert "murmur2_random" in reason
    assert scene.stored(run_id) is None
