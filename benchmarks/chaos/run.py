"""One run of faults: the stack, the trainers, the probes, and the figures."""

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Final, NamedTuple

from benchmarks.chaos.conditions import ClockJump, PostgresFull, RedisFull
from benchmarks.chaos.faults import FaultInjector, Process, Target
from benchmarks.chaos.probes import LIMIT_S, Probes
from benchmarks.chaos.progress import tell
from benchmarks.chaos.resources import ResourceSampler
from benchmarks.chaos.trainers import Trainer
from benchmarks.chaos.verdict import attempts, breaches, finished_runs
from benchmarks.result import (
    SHARE,
    BenchmarkError,
    Figure,
    Goal,
    Measurement,
    figure,
    rounded,
)
from benchmarks.stack import settings_of
from esper.blueprint import shipped
from esper.settings import STACK_FILE, Settings
from esper.workers.cli import publish_blueprints
from esper.workers.local import LocalStack, StackState, process, read_state

SEED: Final = 20
WEIGHTS: Final = {"compile": 3, "bandit": 3, "trainer": 2, "redis": 1, "postgres": 1, "kafka": 1}
CONDITION_WEIGHT: Final = 1
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
    folder = Path(tempfile.mkdtemp(prefix="esper-chaos-"))
    clock = ClockJump(folder / "clock-offset")
    os.environ |= clock.environment()  # For all processes that this one starts.
    stack = LocalStack(folder / "home", {})
    state = stack.start(
        lambda _: None,
        compile_workers=workload.compile_workers,
        bandit_workers=workload.bandit_workers,
        postgres=True,
        supervise=True,
    )
    try:
        settings = settings_of(folder / "home", state)
        measurement, broken = _measure(stack, settings, folder, workload, clock)
        started = _state(folder / "home").processes
    finally:
        stack.stop()
    broken += [f"{one.name} still runs after the end" for one in started if process.is_alive(one)]
    if broken:
        raise BenchmarkError(f"{'; '.join(broken)}; see the logs in {folder}")
    shutil.rmtree(folder)
    return measurement


def _measure(
    stack: LocalStack, settings: Settings, folder: Path, workload: Workload, clock: ClockJump
) -> tuple[Measurement, list[str]]:
    environment = {"ESPER_HOME": str(settings.home)}
    trainers = [
        Trainer(f"trainer-{number}", folder, environment) for number in range(workload.trainers)
    ]
    publish_blueprints(settings, list(shipped()))
    targets = {one.name: one for one in _targets(stack, settings, trainers, clock)}
    injector = FaultInjector(targets, random.Random(SEED))
    probes = Probes(settings, injector.now_s)
    resources = ResourceSampler(partial(_pids, settings.home), injector.now_s)
    resources.start()
    probes.start()
    try:
        _train_under_faults(trainers, injector, workload)
    finally:
        resources.stop()
    tell("waiting for the last answers")
    probes.stop()
    tell("reading the topics, and auditing every run")
    broken = list(breaches(settings, probes.blueprints))
    broken += [trainer.failure for trainer in trainers if trainer.failure is not None]
    broken += [
        f"{one.target.name} did not recover from {one.what}"
        for one in injector.faults
        if one.recovered_s is None
    ]
    figures = [
        *_figures(injector, probes),
        *resources.figures(),
        *_counts(settings, stack, trainers),
    ]
    rows = tuple(one.row() for one in injector.faults)
    parameters = {**workload._asdict(), "seed": SEED, "limit_s": LIMIT_S}
    curves = {**probes.curves(), **_outage_curves(injector), **resources.curves()}
    measurement = Measurement(
        parameters=parameters, figures=tuple(figures), runs=rows, curves=curves
    )
    return measurement, broken


def _train_under_faults(
    trainers: list[Trainer], injector: FaultInjector, workload: Workload
) -> None:
    try:
        for trainer in trainers:
            trainer.start()
        injector.run(workload.faults, workload.duration_s)
        tell("the faults are over: waiting for the last runs of the trainers")
        for trainer in trainers:
            trainer.end()
    except BaseException:
        for trainer in trainers:
            trainer.give_up("interrupted")
        raise


def _figures(injector: FaultInjector, probes: Probes) -> Iterator[Figure]:
    recovery: dict[str, list[float]] = {}
    for fault in injector.faults:
        if fault.recovered_s is not None and fault.what in ("SIGKILL", "SIGTERM"):
            kind = fault.target.kind
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


def _outage_curves(injector: FaultInjector) -> dict[str, tuple[float, ...]]:
    """Return begin and end of the outages, merged, for the timeline."""
    merged: list[list[float]] = []
    for begin_s, end_s in sorted(injector.outages()):
        if merged and begin_s <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end_s)
        else:
            merged.append([begin_s, end_s])
    return {
        "outage-from": tuple(rounded(begin_s) for begin_s, _ in merged),
        "outage-to": tuple(rounded(end_s) for _, end_s in merged),
    }


def _targets(
    stack: LocalStack, settings: Settings, trainers: list[Trainer], clock: ClockJump
) -> Iterator[Target]:
    state = _state(settings.home)
    for record in state.processes:
        kind = record.name.partition("-")[0]
        if kind in WEIGHTS:
            only = kind in ("redis", "postgres", "kafka")
            hit = Process(_pid_of(settings.home, record.name), partial(stack.answers, record.name))
            yield Target(record.name, WEIGHTS[kind], only, hit)
    for trainer in trainers:
        training = Process(trainer.pid, trainer.is_training)
        yield Target(trainer.name, WEIGHTS["trainer"], False, training)
    redis_url, postgres_url = state.redis_url, state.postgres_url
    assert redis_url is not None and postgres_url is not None
    yield Target("clock", CONDITION_WEIGHT, False, clock)
    yield Target("redis-memory", CONDITION_WEIGHT, False, RedisFull(redis_url))
    # The durable tier: no kernel can be announced meanwhile.
    yield Target("postgres-disk", CONDITION_WEIGHT, True, PostgresFull(postgres_url))


def _pids(home: Path) -> Iterator[tuple[str, int]]:
    for record in _state(home).processes:
        yield record.name.partition("-")[0], record.pid


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
