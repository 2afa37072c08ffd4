"""Bursts of blueprints: throughput and memory of one compile worker."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

import psutil

from benchmarks.result import BenchmarkError, Figure, Goal, Measurement, figure, ratio
from benchmarks.stack import Stack, local_stack
from benchmarks.submissions import (
    DIGITS_SITES,
    Submitter,
    new_blueprints,
    of_one_kind,
    renamed,
)
from esper.settings import STACK_FILE
from esper.topics.models import Blueprint, SiteKind, SiteSignature
from esper.workers.local import read_state

MEGABYTE: Final = 1e6
GROWTH_LIMIT: Final = 1.05

SITES: Final = {
    f"{kind}_{index}": SiteSignature(kind=kind, x=shape, h=shape)
    for kind, shapes in {
        SiteKind.VECTOR: ((12,), (32,), (64,)),
        SiteKind.SEQUENCE: ((8, 16), (16, 16), (16, 32)),
        SiteKind.FEATURE_MAP: ((4, 8, 8), (8, 4, 4), (16, 8, 8)),
    }.items()
    for index, shape in enumerate(shapes)
}
"""Sites of three sizes per kind: a blueprint of one kind makes three kernels."""


class Workload(NamedTuple):
    """Bursts, blueprints of a burst, and site sizes per kind."""

    bursts: int
    blueprints: int
    signatures: int


FULL: Final = Workload(bursts=3, blueprints=200, signatures=3)
QUICK: Final = Workload(bursts=1, blueprints=4, signatures=1)


class Burst(NamedTuple):
    """One burst: requested and lost kernels, seconds, resident bytes before and after."""

    kernels: int
    lost: int
    taken_s: float
    before: int
    after: int


def run(quick: bool = False) -> Measurement:
    """Measure on a new stack."""
    with local_stack() as stack:
        return measure(stack, QUICK if quick else FULL)


def measure(stack: Stack, workload: Workload) -> Measurement:
    """Measure bursts on a running stack, after one kernel of every catalog entry."""
    sites = SITES if workload.signatures > 1 else DIGITS_SITES
    blueprints = new_blueprints()
    with Submitter(stack.settings, sites) as submitter:
        if workload.signatures > 1:
            submitter.ready_after_s(*(renamed(entry, "warm") for entry in of_one_kind()))
        bursts = [
            _burst(stack, submitter, tuple(islice(blueprints, workload.blueprints)))
            for _ in range(workload.bursts)
        ]
    return Measurement(
        parameters={**workload._asdict(), "compile_processes": 1},
        figures=tuple(_figures(bursts)),
    )


def _figures(bursts: Sequence[Burst]) -> Iterator[Figure]:
    yield figure(
        "kernels-per-second",
        "kernels ready per second: one worker, one pair of processes, a burst of blueprints",
        "1/s",
        [burst.kernels / burst.taken_s for burst in bursts],
    )
    yield figure(
        "kernels-lost",
        "kernels of a burst that were never announced",
        "kernels",
        [float(burst.lost) for burst in bursts],
        goal=Goal(sense="at most", limit=0.0, of="worst"),
    )
    yield ratio(
        "memory-after-over-before",
        "resident memory of the worker and its processes, after a burst ÷ before it",
        ("after_mb", [burst.after / MEGABYTE for burst in bursts]),
        ("before_mb", [burst.before / MEGABYTE for burst in bursts]),
        goal=Goal(sense="at most", limit=GROWTH_LIMIT),
    )


def _burst(stack: Stack, submitter: Submitter, blueprints: Sequence[Blueprint]) -> Burst:
    kernels = sum(len(submitter.kernels_of(blueprint)) for blueprint in blueprints)
    before = _resident_bytes(stack)
    missing, taken_s = submitter.await_kernels(*blueprints)
    return Burst(kernels, len(missing), taken_s, before, _resident_bytes(stack))


def _resident_bytes(stack: Stack) -> int:
    """Return resident bytes of the compile worker and its processes; shared pages count twice."""
    state = read_state(stack.settings.home / STACK_FILE)
    if state is None:
        raise BenchmarkError(f"no stack runs in {stack.settings.home}; run the benchmark again")
    worker = psutil.Process(state.require_process("compile").pid)
    processes = (worker, *worker.children(recursive=True))
    return sum(process.memory_info().rss for process in processes)
