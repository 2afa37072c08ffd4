"""Where the right choice is known: a lockstep run of the conv teacher finds the kernel, on real
services, and keeps it."""

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
"""What hosts of such teachers reach by themselves, on average."""


@pytest.fixture(scope="module")
def kafka(own_kafka: KafkaService) -> KafkaService:
    """No other test's blueprints: a lockstep run begins with all that were ever published."""
    return own_kafka


@pytest.fixture(scope="module")
def grown(running: Running, tmp_path_factory: pytest.TempPathFactory) -> GrownRun:
    """The teacher's host, grown from four kinds of blueprint at three sites."""
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


def chosen(run: GrownRun, kind: type[Plant] | type[Fossilize]) -> list[tuple[str, str]]:
    """(site, blueprint) of every operation of a kind, in order."""
    return [
        (operation.site, run.run_history.kernels[operation.kernel_id].blueprint_id)
        for decision in run.run_history.decisions
        for operation in decision.operations
        if isinstance(operation, kind)
    ]


def test_the_right_kernel_is_planted_at_the_right_site_and_kept(grown: GrownRun) -> None:
    right = (CONV_TEACHER.site, CONV_TEACHER.blueprint_id)
    assert right in chosen(grown, Plant)
    assert right in chosen(grown, Fossilize)


def test_others_were_tried_too_and_most_were_not_kept(grown: GrownRun) -> None:
    assert len(set(chosen(grown, Plant))) >= 6
    assert 2 * len(chosen(grown, Fossilize)) < len(chosen(grown, Plant))


def test_the_grown_host_knows_what_it_could_not_know(grown: GrownRun) -> None:
    assert grown.result.test_accuracy > HOST_ACCURACY + 0.2
    assert (Path(grown.exported) / "lineage.json").exists()
