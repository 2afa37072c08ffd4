"""The snapshot of one round of auditions: seconds on the training thread, and bytes.

The share is that of one round in the whole training of a task. Sending is not part of it: another
process does it.
"""

import math
from collections.abc import Iterator
from time import perf_counter
from typing import Any, Final, NamedTuple

import torch
from torch.optim import Adam

from benchmarks.grow_step import decision_of
from benchmarks.result import Figure, Goal, Measurement, figure, ratio
from benchmarks.threads import one_thread
from esper.seed import find_sites
from esper.tasks import DIGITS, MNIST1D, DatasetSplits, Task
from esper.topics.models import AdaptationDecision, Audition
from esper.training.auditions import Auditions

TASKS: Final = (MNIST1D, DIGITS)
SHARE: Final = Goal(sense="at most", limit=0.01)


class Workload(NamedTuple):
    """Snapshots, and training steps timed before each."""

    rounds: int
    steps: int


FULL: Final = Workload(rounds=20, steps=200)
QUICK: Final = Workload(rounds=2, steps=5)


class Round(NamedTuple):
    """Seconds of all training steps of a task, seconds of a snapshot, its worst step, its bytes."""

    training_s: float
    snapshot_s: float
    worst_s: float
    size: int


class _Channel:
    """Counts the bytes of snapshots."""

    def __init__(self) -> None:
        self.bytes = 0
        self.complete = False

    def send_snapshot(
        self, snapshot_id: str, site: str, step: int, samples: int, data: bytes | str
    ) -> None:
        assert isinstance(data, bytes), data
        self.bytes += len(data)

    def send_auditions(self, auditions: tuple[Audition, ...]) -> None:
        self.complete = True


def run(quick: bool = False) -> Measurement:
    """Measure in this process."""
    workload = QUICK if quick else FULL
    with one_thread():
        figures = [
            one for task in TASKS for one in _figures(task.name, list(_rounds(task, workload)))
        ]
    return Measurement(parameters=workload._asdict(), figures=tuple(figures))


def _rounds(task: Task, workload: Workload) -> Iterator[Round]:
    splits = task.load()
    torch.manual_seed(0)
    model = task.host()
    optimizer = Adam(model.parameters(), lr=task.learning_rate)
    sites = find_sites(model, task.sites, splits.probe[0][:1], 1)
    for _ in range(workload.rounds):
        step_s = _step_s(task, model, optimizer, splits, workload.steps)
        channel = _Channel()
        auditions = Auditions(model, sites, splits.audition_samples, task.loss)
        auditions.connect(channel)
        auditions.request(_asks(task))
        taken: list[float] = []
        while not channel.complete:
            start = perf_counter()
            auditions.advance(len(taken))
            taken.append(perf_counter() - start)
        steps = task.epochs * math.ceil(len(splits.train[1]) / task.batch)
        yield Round(steps * step_s, sum(taken), max(taken), channel.bytes)


def _step_s(
    task: Task, model: torch.nn.Module, optimizer: Adam, splits: DatasetSplits, steps: int
) -> float:
    """Return the mean seconds of a plain training step."""
    inputs, labels = splits.train
    start = perf_counter()
    for _ in range(steps):
        rows = torch.randint(len(inputs), (task.batch,))
        loss: Any = task.loss(model(inputs[rows]), labels[rows])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return (perf_counter() - start) / steps


def _asks(task: Task) -> AdaptationDecision:
    decision = decision_of()
    auditions = tuple(
        Audition(
            site=site, kernel_ids=("a" * 64,), rung=0, steps=1, snapshot_id=decision.decision_id
        )
        for site in task.sites
    )
    return decision.model_copy(update={"auditions": auditions})


def _figures(name: str, rounds: list[Round]) -> Iterator[Figure]:
    seconds = [one.snapshot_s for one in rounds]
    yield figure(
        f"{name}-snapshot", f"{name}: a snapshot of all sites", "ms", [s * 1e3 for s in seconds]
    )
    yield figure(
        f"{name}-worst",
        f"{name}: the dearest of the steps that take it",
        "ms",
        [one.worst_s * 1e3 for one in rounds],
    )
    yield figure(f"{name}-bytes", f"{name}: bytes of it", "kB", [one.size / 1e3 for one in rounds])
    yield ratio(
        f"{name}-share",
        f"{name}: a snapshot ÷ the whole training",
        ("snapshot_s", seconds),
        ("training_s", [one.training_s for one in rounds]),
        goal=SHARE,
    )
