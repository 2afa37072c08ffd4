"""The governor culls exploding kernels in real runs; the final loss is that of an ungrown run."""

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

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]

EXPLOSIONS = [
    Explosion.NAN,
    *(pytest.param(kind, marks=pytest.mark.heavy) for kind in Explosion if kind != Explosion.NAN),
]


@pytest.fixture(scope="module")
def kafka(own_kafka: KafkaService) -> KafkaService:
    """A broker without other tests' blueprints; a lockstep run starts with all published ones."""
    return own_kafka


@pytest.fixture(scope="module")
def published(running: Running) -> Running:
    publish_blueprints(running.settings, map(shipped_named, BLUEPRINTS))
    return running


@pytest.fixture(scope="module")
def twin() -> Ended:
    """The same training without growth."""
    return never_grown(SEED)


def incidents_of(run: Ended) -> list[Any]:
    """Return the incidents of a run without the ids that depend on the run id."""
    assert run.growth is not None
    return [
        (
            incident.model_dump(exclude={"seeds"}),
            [(seed.site, seed.slot, seed.kernel_id) for seed in incident.seeds],
        )
        for incident in run.growth.run_history.incidents
    ]


@pytest.mark.parametrize("explosion", EXPLOSIONS)
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


@pytest.mark.parametrize("explosion", EXPLOSIONS)
def test_without_the_governor_the_final_loss_is_higher(
    published: Running, twin: Ended, explosion: Explosion
) -> None:
    run = grown(published.settings, SEED, Injector(explosion, AFTER), governor=False)
    assert run.exploded > 0
    assert not (math.isfinite(run.loss) and run.loss <= WITHIN * twin.loss)


@pytest.mark.heavy
def test_a_repeated_run_with_rollbacks_has_equal_incidents_and_weights(published: Running) -> None:
    first, second = (
        grown(published.settings, SEED, Injector(Explosion.HUGE, AFTER)) for _ in range(2)
    )
    assert len(incidents_of(first)) > 1
    assert incidents_of(first) == incidents_of(second)
    assert all(torch.equal(value, second.weights[name]) for name, value in first.weights.items())


@pytest.mark.heavy
def test_a_replay_has_the_recorded_incidents_and_differs_without_the_governor(
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
