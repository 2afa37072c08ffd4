"""One run of faults: the stack, the trainers, the probes, and the figures."""

import random
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Final, NamedTuple

from benchmarks.chaos.faults import FaultInjector, Target
from benchmarks.chaos.probes import LIMIT_S, Probes
from benchmarks.chaos.trainers import Trainer
from benchmarks.chaos.verdict import attempts, breaches, finished_runs
from benchmarks.result import SHARE, BenchmarkError, Figure, Goal, Measurement, figure
from benchmarks.stack import settings_of
from esper.blueprint import shipped
from esper.settings import STACK_FILE, Settings
from esper.workers.cli import publish_blueprints
from esper.workers.local import LocalStack, StackState, process, read_state

SEED: Final = 20
WEIGHTS: Final = {"compile": 3, "bandit": 3, "trainer": 2, "redis": 1, "postgres": 1, "kafka": 1}
AVAILABLE: Final = 0.999


class Workload(NamedTuple):
    """Faults, seconds in which they are injected, and processes of each kind."""

    faults: int
    duration_s: float
    compile_workers: int = 3
    bandit_workers: int = 2
    trainers: int = 2


FULL: Final = Workload(faults=200, duration_s=1500.0)
QUICK: Final = Workload(faults=16, duration_s=110.0)


def run(quick: bool = False) -> Measurement:
    """Run the workload on a new stack, and compare what it left with what must hold.

    Raises:
        BenchmarkError: a promise was broken; the message has one line for each.
    """
    workload = QUICK if quick else FULL
    with tempfile.TemporaryDirectory(prefix="esper-chaos-") as folder:
        stack = LocalStack(Path(folder) / "home", {})
        state = stack.start(
            lambda _: None,
            compile_workers=workload.compile_workers,
            bandit_workers=workload.bandit_workers,
            postgres=True,
            supervise=True,
        )
        try:
            settings = settings_of(Path(folder) / "home", state)
            measurement, broken = _measure(stack, settings, Path(folder), workload)
            started = _state(Path(folder) / "home").processes
        finally:
            stack.stop()
        broken += [
            f"{one.name} still runs after the end" for one in started if process.is_alive(one)
        ]
    if broken:
        raise BenchmarkError("; ".join(broken))
    return measurement


def _measure(
    stack: LocalStack, settings: Settings, folder: Path, workload: Workload
) -> tuple[Measurement, list[str]]:
    environment = {"ESPER_HOME": str(settings.home)}
    trainers = [
        Trainer(f"trainer-{number}", folder, environment) for number in range(workload.trainers)
    ]
    publish_blueprints(settings, list(shipped()))
    injector = FaultInjector(dict(_targets(stack, settings, trainers)), random.Random(SEED))
    probes = Probes(settings, injector.now_s)
    for trainer in trainers:
        trainer.start()
    probes.start()
    injector.run(workload.faults, workload.duration_s)
    for trainer in trainers:
        trainer.end()
    probes.stop()
    broken = list(breaches(settings, probes.blueprints))
    broken += [
        f"{one.target.name} did not recover from {one.signal}"
        for one in injector.faults
        if one.recovered_s is None
    ]
    figures = [*_figures(injector, probes), *_counts(settings, stack, trainers)]
    rows = tuple(one.row() for one in injector.faults)
    parameters = {**workload._asdict(), "seed": SEED, "limit_s": LIMIT_S}
    return Measurement(parameters=parameters, figures=tuple(figures), runs=rows), broken


def _figures(injector: FaultInjector, probes: Probes) -> Iterator[Figure]:
    recovery: dict[str, list[float]] = {}
    for fault in injector.faults:
        if fault.recovered_s is not None and fault.signal != "SIGSTOP":
            kind = fault.target.name.partition("-")[0]
            recovery.setdefault(kind, []).append(fault.recovered_s - fault.at_s)
    for kind, times_s in sorted(recovery.items()):
        yield figure(f"recovery-{kind}", f"{kind} killed or ended → answers again", "s", times_s)
    everything = probes.availability(())
    outside = probes.availability(injector.outages())
    for kind, windows in outside.items():
        title = f"a {kind} sent each second is answered within {LIMIT_S:g} s, outside of outages"
        goal = Goal(sense="at least", limit=AVAILABLE)
        yield figure(f"available-{kind}", title, SHARE, [mean(windows)], goal=goal)
        all_windows = everything[kind]
        title = f"the same in all {len(all_windows)} windows"
        yield figure(f"available-{kind}-always", title, SHARE, [mean(all_windows)])


def _counts(settings: Settings, stack: LocalStack, trainers: list[Trainer]) -> Iterator[Figure]:
    closed, opened = finished_runs(settings)
    compiled = attempts(settings)
    restarts = sum(one.restarts for one in stack.status())
    again = sum(count - 1 for count in compiled.values())
    trained = sum(one.completed for one in trainers)
    left = "runs of trainers that were killed before their first checkpoint"
    yield figure("runs-closed", "runs that were closed", "runs", [float(closed)])
    yield figure("runs-left", left, "runs", [float(opened - closed)])
    yield figure("trainings", "trainings that were completed", "runs", [float(trained)])
    yield figure("kernels", "kernels compiled", "kernels", [float(len(compiled))])
    yield figure("compiled-again", "kernels compiled once more", "kernels", [float(again)])
    yield figure("restarts", "starts by the supervisor", "starts", [float(restarts)])


def _targets(
    stack: LocalStack, settings: Settings, trainers: list[Trainer]
) -> Iterator[tuple[str, Target]]:
    state = _state(settings.home)
    for record in state.processes:
        kind = record.name.partition("-")[0]
        if kind in WEIGHTS:
            only = kind in ("redis", "postgres", "kafka")
            pid = _pid_of(settings.home, record.name)
            answers = partial(stack.answers, record.name)
            yield record.name, Target(record.name, WEIGHTS[kind], only, pid, answers)
    for trainer in trainers:
        weight = WEIGHTS["trainer"]
        yield trainer.name, Target(trainer.name, weight, False, trainer.pid, trainer.is_training)


def _pid_of(home: Path, name: str) -> Callable[[], int | None]:
    def pid() -> int | None:
        record = _state(home).process(name)
        return None if record is None else record.pid

    return pid


def _state(home: Path) -> StackState:
    state = read_state(home / STACK_FILE)
    if state is None:
        raise BenchmarkError(f"no stack runs in {home}")
    return state
