"""Memory of the bandit worker over a million reports.

Most reports are of short runs that open and close in parallel, the rest of a few endless runs.
"""

import asyncio
import secrets
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

import psutil
from aiokafka import AIOKafkaProducer

from benchmarks.report_load import REPORTS_A_DECISION, ReportLoad
from benchmarks.result import BenchmarkError, Goal, Measurement, figure, ratio
from benchmarks.stack import Stack, local_stack
from esper.settings import STACK_FILE
from esper.topics.catalog import SEED_METRICS
from esper.topics.codec import encode
from esper.topics.models import PolicySpec, RunConfig, SeedReport
from esper.workers.local import ProcessRecord, metrics_address, read_state

GOAL: Final = Goal(sense="at most", limit=1.05)
WORKER: Final = "bandit"
COUNTED: Final = "esper_reports_folded_total"
MEGABYTE: Final = 1e6

REPORTS_A_SHORT_RUN: Final = 10
SIDE_BY_SIDE: Final = 60
"""Short runs that are open in parallel."""

SAMPLE_EVERY_S: Final = 0.25
EARLY: Final = (0.2, 0.3)
LATE: Final = (0.9, 1.0)
"""Parts of the load, by folded reports, over which memory is compared."""

STALL_TIMEOUT_S: Final = 60.0


class Workload(NamedTuple):
    """Short runs of ten reports; long runs, and decisions of each, one in twenty reports."""

    short_runs: int
    long_runs: int
    decisions_a_long_run: int

    @property
    def reports(self) -> int:
        """Number of reports of all runs."""
        long = self.long_runs * self.decisions_a_long_run * REPORTS_A_DECISION
        return self.short_runs * REPORTS_A_SHORT_RUN + long


FULL: Final = Workload(short_runs=90_000, long_runs=10, decisions_a_long_run=500)
QUICK: Final = Workload(short_runs=600, long_runs=2, decisions_a_long_run=20)


class Sample(NamedTuple):
    """Reports folded since the start of the load, and resident bytes of the worker."""

    folded: int
    resident: int


def run(quick: bool = False) -> Measurement:
    """Measure on a new stack."""
    with local_stack() as stack:
        return measure(stack, QUICK if quick else FULL)


def measure(stack: Stack, workload: Workload) -> Measurement:
    """Measure on a running stack, whose bandit worker restarts first."""
    stack.stop_worker(WORKER)
    stack.start_worker(WORKER)
    begun = time.monotonic()
    samples = _fold(stack, workload)
    taken_s = time.monotonic() - begun
    early, late = (_between(samples, workload.reports, part) for part in (EARLY, LATE))
    pairs = min(len(early), len(late))
    return Measurement(
        parameters={**workload._asdict(), "reports": workload.reports},
        figures=(
            ratio(
                "late-over-early",
                "memory of the bandit worker over the last tenth of the reports ÷ over the third "
                "tenth",
                ("late_mb", late[-pairs:]),
                ("early_mb", early[-pairs:]),
                goal=GOAL,
            ),
            figure("late", "memory of the bandit worker over the last tenth", "MB", late),
            figure(
                "rate",
                "reports per second through the bandit worker",
                "1/s",
                [workload.reports / taken_s],
            ),
        ),
    )


def _fold(stack: Stack, workload: Workload) -> list[Sample]:
    """Publish the load while the worker folds it; return the samples of its memory."""
    worker = _record(stack)
    samples: list[Sample] = []
    failed = threading.Event()
    watch = threading.Thread(target=_watch, args=(worker, workload.reports, samples, failed))
    watch.start()
    try:
        asyncio.run(_publish(workload, stack.settings.kafka_bootstrap_servers, failed))
    except BaseException:
        failed.set()
        raise
    finally:
        watch.join()
    if failed.is_set():
        folded = samples[-1].folded if samples else 0
        raise BenchmarkError(
            f"the bandit worker stopped at {folded} of {workload.reports} reports; its log is "
            f"{stack.settings.home}/workers/{WORKER}.log"
        )
    return samples


def _watch(
    worker: ProcessRecord, reports: int, samples: list[Sample], failed: threading.Event
) -> None:
    process = psutil.Process(worker.pid)
    moved_s = time.monotonic()
    while not failed.is_set():
        try:
            sample = Sample(_folded(worker), process.memory_info().rss)
        except (OSError, psutil.Error):
            failed.set()
            return
        if not samples or sample.folded > samples[-1].folded:
            moved_s = time.monotonic()
        samples.append(sample)
        if sample.folded >= reports:
            return
        if time.monotonic() - moved_s > STALL_TIMEOUT_S:
            failed.set()
        time.sleep(SAMPLE_EVERY_S)


def _folded(worker: ProcessRecord) -> int:
    with urllib.request.urlopen(f"{metrics_address(worker)}/metrics", timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(f"{COUNTED} "):
                return int(float(line.split()[1]))
    raise OSError(f"the worker's metrics lack {COUNTED}; is it of another version?")


def _between(samples: Sequence[Sample], reports: int, part: tuple[float, float]) -> list[float]:
    """Return the resident megabytes during a part of the load.

    If no sample is within the part, return the nearest one.
    """
    low, high = (share * reports for share in part)
    found = [sample for sample in samples if low <= sample.folded <= high]
    nearest = min(samples, key=lambda sample: abs(sample.folded - (low + high) / 2))
    return [sample.resident / MEGABYTE for sample in found or [nearest]]


async def _publish(workload: Workload, servers: str, failed: threading.Event) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=servers, enable_idempotence=True, acks="all", linger_ms=5
    )
    await producer.start()
    try:
        for run_id, value in _load(workload):
            if failed.is_set():
                return
            await producer.send(SEED_METRICS.name, value, key=run_id.encode())
        await producer.flush()
    finally:
        await producer.stop()


def _load(workload: Workload) -> Iterator[tuple[str, bytes]]:
    """Yield run id and bytes of every report; reports of long runs are spread over the load."""
    name = f"memory-{secrets.token_hex(4)}"
    long = ReportLoad(f"{name}-long", workload.long_runs, workload.decisions_a_long_run)
    long_reports = ((report.run_id, encode(report)) for report in long)
    every = workload.short_runs * REPORTS_A_SHORT_RUN // long.reports
    for number, short in enumerate(_short_runs(name, workload.short_runs)):
        yield short
        if number % every == 0:
            yield from islice(long_reports, 1)
    yield from long_reports


def _short_runs(name: str, runs: int) -> Iterator[tuple[str, bytes]]:
    """Yield the reports of the short runs, `SIDE_BY_SIDE` runs in parallel."""
    forms = [encode(_short_report("RUN", seq)) for seq in range(REPORTS_A_SHORT_RUN)]
    for first in range(0, runs, SIDE_BY_SIDE):
        names = [f"{name}-{number}" for number in range(first, min(first + SIDE_BY_SIDE, runs))]
        for form in forms:
            for run_id in names:
                yield run_id, form.replace(b"RUN", run_id.encode())


def _short_report(run_id: str, seq: int) -> SeedReport:
    run_config = RunConfig(
        seed=0,
        slots={"fc1": 1},
        policy=PolicySpec(),
        host_params=1000,
        report_interval_steps=20,
    )
    report = SeedReport(
        run_id=run_id.lower(),
        seq=seq,
        step=20 * seq,
        train_loss=0.5,
        probe_loss=0.6,
        run_config=run_config if seq == 0 else None,
        closing=seq == REPORTS_A_SHORT_RUN - 1,
    )
    # The upper-case id occurs in no other field, so it can be replaced in the bytes.
    return report.model_copy(update={"run_id": run_id})


def _record(stack: Stack) -> ProcessRecord:
    state = read_state(stack.settings.home / STACK_FILE)
    if state is None:
        raise BenchmarkError(f"no stack runs in {stack.settings.home}; run the benchmark again")
    return state.require_process(WORKER)
