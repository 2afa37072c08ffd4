"""Reports through the bandit worker against a bare aiokafka loop that folds the same records.

Both are timed from their first published decision to their last, by the timestamps of the records:
the first report of the load leads to a decision, and so do the last ones. The worker publishes at
the end of a batch, so the reports of its first batch are not counted.
"""

import asyncio
import secrets
import threading
from collections.abc import Callable
from typing import Final, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition

from benchmarks.bare_loop import fold_in_bare_loop
from benchmarks.report_load import REPORTS_A_DECISION, ReportLoad, put_on_topic
from benchmarks.result import BenchmarkError, Goal, Measurement, figure, ratio
from benchmarks.stack import Stack, local_stack
from esper.topics.bus import Bus, Record, StartOffset
from esper.topics.catalog import ADAPTATION_DECISION, SEED_METRICS
from esper.workers.bandit import BATCH_RECORDS

GOAL: Final = Goal(sense="at least", limit=0.5)
FOLD_TIMEOUT_S: Final = 120.0
WORKER: Final = "bandit"


class Workload(NamedTuple):
    """Rounds, runs of a round, and decisions of a run."""

    rounds: int
    runs: int
    decisions_a_run: int


FULL: Final = Workload(rounds=5, runs=48, decisions_a_run=16)
QUICK: Final = Workload(rounds=1, runs=4, decisions_a_run=2)


def run(quick: bool = False) -> Measurement:
    """Measure on a new stack."""
    with local_stack() as stack:
        return measure(stack, QUICK if quick else FULL)


def measure(stack: Stack, workload: Workload) -> Measurement:
    """Measure on a running stack, whose bandit worker restarts in each round."""
    rates = [
        _round(stack, workload, worker_first=number % 2 == 0) for number in range(workload.rounds)
    ]
    worker, bare = ([by_side[side] for by_side in rates] for side in ("worker", "bare"))
    return Measurement(
        parameters={**workload._asdict(), "reports_a_decision": REPORTS_A_DECISION},
        figures=(
            ratio(
                "worker-over-bare",
                "reports a second through the bandit worker ÷ through a bare aiokafka loop",
                ("worker_reports_a_s", worker),
                ("bare_reports_a_s", bare),
                goal=GOAL,
            ),
            figure("worker", "reports through the bandit worker", "1/s", worker),
            figure("bare", "reports through a bare aiokafka loop", "1/s", bare),
        ),
    )


def _round(stack: Stack, workload: Workload, *, worker_first: bool) -> dict[str, float]:
    """Return the reports per second of both sides over a new load."""
    load = ReportLoad(f"load-{secrets.token_hex(4)}", workload.runs, workload.decisions_a_run)
    servers = stack.settings.kafka_bootstrap_servers
    stack.stop_worker(WORKER)
    starts = asyncio.run(_ends(servers))
    asyncio.run(put_on_topic(load, servers))
    sides: list[tuple[str, Callable[[], list[float]]]] = [
        ("worker", lambda: _fold_in_worker(stack, load)),
        ("bare", lambda: fold_in_bare_loop(servers, starts, load.reports, load.name)),
    ]
    rates = {
        name: _rate(load, published_s(), BATCH_RECORDS if name == "worker" else 0)
        for name, published_s in (sides if worker_first else sides[::-1])
    }
    stack.start_worker(WORKER)
    return rates


def _rate(load: ReportLoad, published_s: list[float], folded_before: int) -> float:
    """Return reports per second, without the `folded_before` reports before the first decision."""
    if len(published_s) != load.decisions:
        raise BenchmarkError(
            f"{len(published_s)} decisions instead of {load.decisions}: one side did not fold "
            "every report; see the worker's log"
        )
    return max(1, load.reports - folded_before) / (max(published_s) - min(published_s))


def _fold_in_worker(stack: Stack, load: ReportLoad) -> list[float]:
    """Let the worker fold a load, then stop it; return the publication times of its decisions."""
    published_s: list[float] = []
    complete = threading.Event()

    def note(record: Record) -> None:
        if record.key is not None and record.key.startswith(load.name.encode()):
            published_s.append(record.timestamp_ms / 1e3)
        if len(published_s) == load.decisions:
            complete.set()

    bus = Bus.connect(stack.settings.kafka_bootstrap_servers, source="/esper/benchmark")
    try:
        bus.consume(ADAPTATION_DECISION.name, note, start=StartOffset.LATEST)
        stack.start_worker(WORKER)
        if not complete.wait(FOLD_TIMEOUT_S):
            raise BenchmarkError(
                f"the bandit worker made {len(published_s)} of {load.decisions} decisions within "
                f"{FOLD_TIMEOUT_S:g} s; see its log"
            )
    finally:
        bus.close()
    stack.stop_worker(WORKER)
    return published_s


async def _ends(servers: str) -> dict[int, int]:
    """Return the end offset of each partition of `seed-metrics`."""
    consumer = AIOKafkaConsumer(bootstrap_servers=servers)
    await consumer.start()
    try:
        partitions = [
            TopicPartition(SEED_METRICS.name, number) for number in range(SEED_METRICS.partitions)
        ]
        ends = await consumer.end_offsets(partitions)
    finally:
        await consumer.stop()
    return {partition.partition: offset for partition, offset in ends.items()}
