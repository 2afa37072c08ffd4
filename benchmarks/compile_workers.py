"""Kernels per second of 1, 2 and 4 compile workers, at a stated cost of each compilation."""

import tempfile
from pathlib import Path
from time import perf_counter
from typing import Final, NamedTuple

from benchmarks.compile_fleet import fleet, requests
from benchmarks.result import Goal, Measurement, figure, ratio
from esper.workers.local import CAN_DIE_WITH_PARENT, KafkaService


class Workload(NamedTuple):
    """Kernels of one measurement, seconds of waiting in a compile process, and fleet sizes."""

    kernels: int
    cost_s: float
    workers: tuple[int, ...]


FULL: Final = Workload(kernels=400, cost_s=0.15, workers=(1, 2, 4))
QUICK: Final = Workload(kernels=8, cost_s=0.02, workers=(1, 2))


def run(quick: bool = False) -> Measurement:
    """Measure on a new broker."""
    with tempfile.TemporaryDirectory(prefix="esper-benchmark-") as folder:
        kafka = KafkaService(Path(folder) / "kafka", die_with_parent=CAN_DIE_WITH_PARENT)
        kafka.start()
        try:
            return measure(kafka.bootstrap_servers, Path(folder), QUICK if quick else FULL)
        finally:
            kafka.stop()


def measure(bootstrap_servers: str, folder: Path, workload: Workload) -> Measurement:
    """Measure fleets of each size; a compilation is a wait, so that two cores suffice."""
    rates = {size: _rate(bootstrap_servers, folder, size, workload) for size in workload.workers}
    alone = rates[1]
    speedups = [
        ratio(
            f"speedup-{size}",
            f"kernels per second, {size} workers ÷ 1 worker",
            (f"with_{size}", [rate]),
            ("with_1", [alone]),
            goal=Goal(sense="at least", limit=0.8 * size),
        )
        for size, rate in rates.items()
        if size > 1
    ]
    single = figure(
        "kernels-per-second",
        f"kernels ready per second: one worker, {workload.cost_s:g} s per kernel",
        "1/s",
        [alone],
        goal=Goal(sense="at least", limit=0.8 / workload.cost_s),
    )
    return Measurement(
        parameters={
            "kernels": workload.kernels,
            "cost_s": workload.cost_s,
            "workers": list(workload.workers),
            "compile_processes": 1,
        },
        figures=(single, *speedups),
    )


def _rate(bootstrap_servers: str, folder: Path, size: int, workload: Workload) -> float:
    """Return kernels per second from the first request to the last announcement."""
    own = folder / f"workers-{size}"
    own.mkdir()
    with fleet(bootstrap_servers, own) as workers:
        started = workers.start(size)
        wanted = requests(workload.kernels, f"{workload.cost_s:g}", f"of-{size}")
        begun = perf_counter()
        workers.request(wanted)
        workers.wait_announced(wanted)
        taken_s = max(workers.announced_at.values()) - begun
        for worker in started:
            workers.stop(worker)
    return workload.kernels / taken_s
