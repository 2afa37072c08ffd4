"""Training steps with the pipeline busy against steps with it off, on separate cores.

The trainer has one core; broker, store, workers and the author of blueprints share the other.
A third side, a plain loop beside a busy pipeline without a connection to it, separates the cost of
growth in the trainer's process from the cost of a shared machine.
"""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from statistics import median, quantiles
from typing import Final, NamedTuple

from benchmarks.paced_trainer import PacedTrainer, Segment
from benchmarks.result import BenchmarkError, Figure, Goal, Measurement, figure, ratio
from benchmarks.stack import Stack, local_stack, on_cores
from benchmarks.submissions import DIGITS_SITES, Submitter, new_blueprints
from esper.training import REPORT_EVERY

P99_GOAL: Final = Goal(sense="at most", limit=1.02)
STALL_GOAL: Final = Goal(sense="at most", limit=1.0, of="worst")
SHARE_GOAL: Final = Goal(sense="at most", limit=0.03)
SETTLING_STEPS: Final = 100
"""Untimed steps at the start of each turn: caches fill, and queued messages are processed."""


class Workload(NamedTuple):
    """Rounds, and steps of each side per round."""

    rounds: int
    steps: int


FULL: Final = Workload(rounds=12, steps=1000)
QUICK: Final = Workload(rounds=2, steps=60)


class RoundSegments(NamedTuple):
    """One round: pipeline off, busy beside a plain loop, busy and connected."""

    off: Segment
    beside: Segment
    busy: Segment


def run(quick: bool = False) -> Measurement:
    """Measure on a new stack with its own core."""
    trainer_core, pipeline_core = two_cores()
    with on_cores({pipeline_core}), local_stack() as stack:
        return measure(stack, QUICK if quick else FULL, trainer_core)


def two_cores() -> tuple[int, int]:
    """Return a core for the trainer and one for everything else.

    Raises:
        BenchmarkError: the process may use only one core.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise BenchmarkError("1 usable core, but the trainer needs its own; use a machine with two")
    return cores[0], cores[1]


def measure(stack: Stack, workload: Workload, trainer_core: int) -> Measurement:
    """Measure on a running stack; the caller gives the stack its own core."""
    # Both processes start before either is waited for, so that they import in parallel.
    plain, growing = (PacedTrainer(settings, trainer_core) for settings in (None, stack.settings))
    with Submitter(stack.settings, DIGITS_SITES) as submitter, plain, growing:
        author = _Author(submitter)
        rounds = [
            _round(plain, growing, author, workload.steps, backwards=number % 2 == 1)
            for number in range(workload.rounds)
        ]
    return Measurement(
        parameters={
            **workload._asdict(),
            "report_every_steps": REPORT_EVERY,
            "kernels_compiled_meanwhile": author.kernels,
        },
        figures=(*_times(rounds), *_against_goals(rounds), *_reporting(rounds)),
    )


class _Author:
    """Publishes one new blueprint after the other on a thread, within `writing`."""

    def __init__(self, submitter: Submitter) -> None:
        self._submitter = submitter
        self._blueprints = new_blueprints()
        self.kernels = 0

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep the pipeline busy within the block, then wait for its last kernel."""
        enough = threading.Event()

        def write() -> None:
            while not enough.is_set():
                self._submitter.ready_after_s(next(self._blueprints))
                self.kernels += 1

        with ThreadPoolExecutor(1) as thread:
            written = thread.submit(write)
            try:
                yield
            finally:
                enough.set()
            written.result()


def _round(
    plain: PacedTrainer, growing: PacedTrainer, author: _Author, steps: int, *, backwards: bool
) -> RoundSegments:
    def busy(trainer: PacedTrainer) -> Segment:
        with author.writing():
            return _turn(trainer, steps)

    turns: list[tuple[str, Callable[[], Segment]]] = [
        ("off", lambda: _turn(plain, steps)),
        ("beside", lambda: busy(plain)),
        ("busy", lambda: busy(growing)),
    ]
    return RoundSegments(**{name: turn() for name, turn in (turns[::-1] if backwards else turns)})


def _turn(trainer: PacedTrainer, steps: int) -> Segment:
    trainer.train(SETTLING_STEPS)
    return trainer.train(steps)


def _times(rounds: list[RoundSegments]) -> Iterator[Figure]:
    """Yield step times of each side without reporting steps, one value per round."""
    for side, title in TITLES.items():
        steps_ms = [_plain_steps_ms(getattr(segments, side)) for segments in rounds]
        for key, of in PERCENTILES.items():
            values = [of(values) for values in steps_ms]
            yield figure(f"{key}-{side}", f"{title}: {key} of a step", "ms", values)


def _against_goals(rounds: list[RoundSegments]) -> Iterator[Figure]:
    def p99(side: str, *, reports: bool = False) -> list[float]:
        take = _all_steps_ms if reports else _plain_steps_ms
        return [_p99(take(getattr(segments, side))) for segments in rounds]

    off, beside, busy = (p99(side) for side in TITLES)
    yield ratio(
        "p99-busy-over-off",
        "p99 of a step, pipeline busy ÷ off, without the steps that report",
        ("busy_ms", busy),
        ("off_ms", off),
        goal=P99_GOAL,
    )
    yield ratio(
        "p99-busy-over-off-all",
        f"the same with the steps that report, every {REPORT_EVERY}th",
        ("busy_ms", p99("busy", reports=True)),
        ("off_ms", p99("off", reports=True)),
        goal=P99_GOAL,
    )
    yield ratio(
        "p99-busy-over-beside",
        "of which growth in the trainer's process: busy ÷ beside",
        ("busy_ms", busy),
        ("beside_ms", beside),
    )
    yield ratio(
        "p99-beside-over-off",
        "of which a busy neighbour on the other core: beside ÷ off",
        ("beside_ms", beside),
        ("off_ms", off),
    )
    yield figure(
        "stall-beyond-off",
        "worst step of a round, pipeline busy, beyond the worst with it off",
        "ms",
        [max(_plain_steps_ms(sides.busy)) - max(_plain_steps_ms(sides.off)) for sides in rounds],
        goal=STALL_GOAL,
    )


def _reporting(rounds: list[RoundSegments]) -> Iterator[Figure]:
    """Yield the cost of `growth.step` on the training thread."""
    busy = [segments.busy for segments in rounds]
    reports_ms = [step.growth_s * 1e3 for segment in busy for step in segment.steps if step.reports]
    quiet_us = [
        step.growth_s * 1e6 for segment in busy for step in segment.steps if not step.reports
    ]
    shares = [
        sum(step.growth_s for step in segment.steps if step.reports)
        / sum(step.whole_s for step in segment.steps)
        for segment in busy
    ]
    yield figure(
        "report", "growth.step when it reports: the probe, then the report", "ms", reports_ms
    )
    yield figure(
        "report-share",
        "probes and reports as a share of training time, at the default interval",
        "share",
        shares,
        goal=SHARE_GOAL,
    )
    yield figure("no-report", "growth.step when it does not report", "µs", quiet_us)


def _plain_steps_ms(segment: Segment) -> list[float]:
    return [step.whole_s * 1e3 for step in segment.steps if not step.reports]


def _all_steps_ms(segment: Segment) -> list[float]:
    return [step.whole_s * 1e3 for step in segment.steps]


def _p99(values: list[float]) -> float:
    return quantiles(values, n=100, method="inclusive")[98]


TITLES: Final = {
    "off": "pipeline off",
    "beside": "pipeline busy, trainer not connected",
    "busy": "pipeline busy, trainer connected",
}

PERCENTILES: Final[dict[str, Callable[[list[float]], float]]] = {
    "p50": median,
    "p99": _p99,
    "worst": max,
}
