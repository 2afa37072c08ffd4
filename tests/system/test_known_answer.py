"""The right kernel of the conv teacher is known: a lockstep run plants and fossilizes it."""

from pathlib import Path

import pytest

from esper.blueprint import shipped_named
from esper.tasks import CONV_TEACHER
from esper.topics.models import Fossilize, Plant
from esper.workers.cli import publish_blueprints
from esper.workers.cli.train import GrownRun, GrowOptions, grow_task
from esper.workers.local import KafkaService
from tests.system.conftest import Running

EPOCHS = 24
BLUEPRINTS = ("image-conv", "gated-linear-unit", "channel-mixing-mlp", "low-rank-skip-wide")
HOST_ACCURACY = 0.42
"""Mean test accuracy of such hosts without growth."""

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def kafka(own_kafka: KafkaService) -> KafkaService:
    """A broker without other tests' blueprints; a lockstep run starts with all published ones."""
    return own_kafka


@pytest.fixture(scope="module")
def grown(running: Running, tmp_path_factory: pytest.TempPathFactory) -> GrownRun:
    """The teacher's host, grown from four blueprints at three sites."""
    publish_blueprints(running.settings, map(shipped_named, BLUEPRINTS))
    return grow_task(
        running.settings,
        CONV_TEACHER.task,
        seed=0,
        epochs=EPOCHS,
        export_under=tmp_path_factory.mktemp("grown"),
        on_start=lambda run_id: None,
        on_epoch=lambda epoch, loss: None,
        options=GrowOptions(lockstep=True),
    )


def operations_of(run: GrownRun, kind: type[Plant] | type[Fossilize]) -> list[tuple[str, str]]:
    """Return (site, blueprint) of every operation of a kind, in order."""
    return [
        (operation.site, run.run_history.kernels[operation.kernel_id].blueprint_id)
        for decision in run.run_history.decisions
        for operation in decision.operations
        if isinstance(operation, kind)
    ]


def test_the_right_kernel_is_planted_at_the_right_site_and_fossilized(grown: GrownRun) -> None:
    right = (CONV_TEACHER.site, CONV_TEACHER.blueprint_id)
    assert right in operations_of(grown, Plant)
    assert right in operations_of(grown, Fossilize)


def test_other_kernels_are_planted_too_and_most_are_not_fossilized(grown: GrownRun) -> None:
    assert len(set(operations_of(grown, Plant))) >= 6
    assert 2 * len(operations_of(grown, Fossilize)) < len(operations_of(grown, Plant))


def test_the_grown_host_is_more_accurate_than_ungrown_hosts(grown: GrownRun) -> None:
    assert grown.result.test_accuracy > HOST_ACCURACY + 0.2
    assert (Path(grown.exported) / "lineage.json").exists()
