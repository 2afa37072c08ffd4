"""MNIST-1D through the real stack: growth with auditions against the host that never grows.

Runs of one seed start from the same weights and see the same batches. All shipped blueprints are
offered at every site. The lines with permuted positions are the null world: they have no shapes.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any, Final, NamedTuple

from benchmarks.result import Figure, Goal, Measurement, figure
from benchmarks.stack import Stack, local_stack
from benchmarks.threads import one_thread
from esper.audit import audit, fetch_history
from esper.bandit import AUDITIONED
from esper.blueprint import shipped
from esper.tasks import MNIST1D, MNIST1D_SHUFFLED, Task, train_task
from esper.topics.models import Fossilize
from esper.workers.cli import publish_blueprints
from esper.workers.cli.train import GrowOptions, grow_task
from experiments.growth.live import auditions_of

WORKERS: Final = 2
GROWN: Final = Goal(sense="at least", limit=0.85)
EQUAL: Final = Goal(sense="at least", limit=-0.01)


class Workload(NamedTuple):
    """Seeds, and epochs of a run; None: the task's own."""

    seeds: int
    epochs: int | None


FULL: Final = Workload(seeds=10, epochs=None)
QUICK: Final = Workload(seeds=1, epochs=6)


class PairedRun(NamedTuple):
    """A grown run beside the host of the same seed; accuracies are of the test samples."""

    task: str
    seed: int
    run_id: str
    host: float
    grown: float
    planted: list[str]
    kept: list[str]
    auditions: int
    audition_cpu_s: float
    host_cpu_s: float
    grown_cpu_s: float
    audited: bool

    @property
    def difference(self) -> float:
        """The accuracy gained."""
        return self.grown - self.host


def run(quick: bool = False) -> Measurement:
    """Measure on a new stack."""
    with local_stack(audition_workers=WORKERS) as stack, TemporaryDirectory() as folder:
        return measure(stack, Path(folder), QUICK if quick else FULL)


def measure(stack: Stack, folder: Path, workload: Workload) -> Measurement:
    """Measure on a running stack without other blueprints; exports go to `folder`."""
    publish_blueprints(stack.settings, shipped())
    with one_thread():
        runs = [
            paired(stack, folder, task, seed, workload.epochs or task.epochs)
            for seed in range(workload.seeds)
            for task in (MNIST1D, MNIST1D_SHUFFLED)
        ]
    parameters: dict[str, Any] = {"seeds": workload.seeds, "epochs": workload.epochs or "own"}
    return Measurement(
        parameters=parameters,
        figures=tuple(figures_of(runs)),
        runs=tuple(one._asdict() for one in runs),
    )


def paired(stack: Stack, folder: Path, task: Task, seed: int, epochs: int) -> PairedRun:
    """Train the host of a seed, then the same host while it grows in lockstep."""
    start_s = process_time()
    host = train_task(task, seed, epochs)
    host_s = process_time()
    grown = grow_task(
        stack.settings,
        task,
        seed=seed,
        epochs=epochs,
        export_under=folder,
        on_start=lambda run_id: None,
        on_epoch=lambda epoch, loss: None,
        options=GrowOptions(selection=AUDITIONED, lockstep=True, memory=False),
    )
    grown_s = process_time()
    kafka = stack.settings.kafka_bootstrap_servers
    history = fetch_history(kafka, grown.run_id)
    operations = [op for one in grown.run_history.decisions for op in one.operations]
    plants = [plant for one in grown.run_history.decisions for plant in one.plants]
    names = {plant.kernel_id: plant.blueprint_id for plant in plants}
    mine = auditions_of(kafka, grown.run_id)
    return PairedRun(
        task=task.name,
        seed=seed,
        run_id=grown.run_id,
        host=host.test_accuracy,
        grown=grown.result.test_accuracy,
        planted=[f"{plant.site}/{plant.blueprint_id}" for plant in plants],
        kept=[f"{op.site}/{names[op.kernel_id]}" for op in operations if isinstance(op, Fossilize)],
        auditions=len(mine),
        audition_cpu_s=round(sum(result.cpu_seconds for result in mine), 2),
        host_cpu_s=round(host_s - start_s, 2),
        grown_cpu_s=round(grown_s - host_s, 2),
        audited=audit(history).identical,
    )


def figures_of(runs: Sequence[PairedRun]) -> Iterator[Figure]:
    """Yield the figures of both worlds."""
    real = [one for one in runs if one.task == MNIST1D.name]
    null = [one for one in runs if one.task == MNIST1D_SHUFFLED.name]
    accuracies = [one.grown for one in real]
    yield figure("host", "the host, never grown", "accuracy", [one.host for one in real])
    yield figure("grown", "the host, grown with auditions", "accuracy", accuracies, goal=GROWN)
    yield figure("gained", "grown minus host", "accuracy", [one.difference for one in real])
    yield figure(
        "null",
        "permuted positions: grown minus host",
        "accuracy",
        [one.difference for one in null],
        goal=EQUAL,
    )
    yield figure(
        "null-kept",
        "permuted positions: kernels kept",
        "kernels",
        [float(len(one.kept)) for one in null],
    )
    yield figure(
        "trainer-cpu",
        "CPU of the training process, grown ÷ never grown",
        "ratio",
        [one.grown_cpu_s / max(one.host_cpu_s, 1e-9) for one in real],
    )
    yield figure(
        "audition-cpu",
        "CPU of audition workers ÷ that of the training process never grown",
        "ratio",
        [one.audition_cpu_s / max(one.host_cpu_s, 1e-9) for one in real],
    )
    yield figure(
        "auditions-per-s",
        "auditions of 40 to 460 steps per second of CPU",
        "1/s",
        [one.auditions / max(one.audition_cpu_s, 1e-9) for one in real],
    )
    yield figure(
        "audited", "runs whose audit is identical", "share", [float(one.audited) for one in runs]
    )
