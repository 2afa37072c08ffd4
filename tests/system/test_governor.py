"""Kernels that explode in real runs: taken out, and the run ends as if it had never grown."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.exploding import REPORT_EVERY, Ended, Explosion, Injector, grown, never_grown
from esper.audit import audit, fetch_history, with_kernels, write_history
from esper.blueprint import shipped_named
from esper.training import ReplayDiffers, read_recording
from esper.workers.cli import publish_blueprints
from esper.workers.local import KafkaService
from tests.seed.conftest import one_thread
from tests.system.conftest import Running

__all__ = ["one_thread"]

BLUEPRINTS = ("low-rank-skip", "gated-linear-unit", "linear-bottleneck")
WITHIN = 1.01
AFTER = 25
SEED = 3


@pytest.fixture(scope="module")
def kafka(own_kafka: KafkaService) -> KafkaService:
    """No other test's blueprints: a lockstep run begins with all that were ever published."""
    return own_kafka


@pytest.fixture(scope="module")
def published(running: Running) -> Running:
    publish_blueprints(running.settings, map(shipped_named, BLUEPRINTS))
    return running


@pytest.fixture(scope="module")
def twin() -> Ended:
    """The run that never grew."""
    return never_grown(SEED)


def incidents_of(run: Ended) -> list[Any]:
    """What the governor did, without the names that hang on the run's."""
    assert run.growth is not None
    return [
        (
            incident.model_dump(exclude={"seeds"}),
            [(seed.site, seed.slot, seed.kernel_id) for seed in incident.seeds],
        )
        for incident in run.growth.run_history.incidents
    ]


@pytest.mark.parametrize("explosion", Explosion)
def test_a_run_whose_kernels_explode_ends_as_low_as_one_that_never_grew(
    published: Running, twin: Ended, explosion: Explosion
) -> None:
    run = grown(published.settings, SEED, Injector(explosion, AFTER))
    assert run.exploded > 0
    assert run.growth is not None
    incidents = run.growth.run_history.incidents
    assert incidents
    assert all(incident.seeds and incident.restored_step is not None for incident in incidents)
    assert run.loss <= WITHIN * twin.loss
    history = fetch_history(published.settings.kafka_bootstrap_servers, run.growth.run_id)
    verdict = audit(history)
    assert verdict.finding is None
    assert verdict.closed


@pytest.mark.parametrize("explosion", Explosion)
def test_without_the_governor_it_does_not(
    published: Running, twin: Ended, explosion: Explosion
) -> None:
    run = grown(published.settings, SEED, Injector(explosion, AFTER), governor=False)
    assert run.exploded > 0
    assert not (math.isfinite(run.loss) and run.loss <= WITHIN * twin.loss)


def test_a_run_with_rollbacks_can_be_repeated_bit_for_bit(published: Running) -> None:
    first, second = (
        grown(published.settings, SEED, Injector(Explosion.HUGE, AFTER)) for _ in range(2)
    )
    assert len(incidents_of(first)) > 1
    assert incidents_of(first) == incidents_of(second)
    assert all(torch.equal(value, second.weights[name]) for name, value in first.weights.items())


@pytest.mark.timeout(300)
def test_in_a_replay_the_governor_steps_in_by_itself_as_recorded(
    published: Running, tmp_path: Path
) -> None:
    def explode() -> Injector:
        return Injector(Explosion.HUGE, AFTER)

    settings, file = published.settings, tmp_path / "history.jsonl"
    run = grown(settings, SEED, explode())
    assert run.growth is not None
    broker = settings.kafka_bootstrap_servers
    write_history(with_kernels(broker, fetch_history(broker, run.growth.run_id)), file)
    recording = read_recording(file, settings=settings)

    again = grown(settings, SEED, explode(), replay=recording)

    assert len(incidents_of(run)) > 1
    assert incidents_of(again) == incidents_of(run)
    assert all(torch.equal(value, run.weights[name]) for name, value in again.weights.items())
    with pytest.raises(ReplayDiffers) as differs:
        grown(settings, SEED, explode(), governor=False, replay=recording)
    assert differs.value.difference is not None
    first = run.growth.run_history.incidents[0]
    assert first.step <= differs.value.difference.step < first.step + 2 * REPORT_EVERY
