"""The table of benchmarks. A new benchmark is a module with `run(quick)` and a row here."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from benchmarks.origin import commit, machine, modified
from benchmarks.result import BenchmarkError, Measurement, Result


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark; `module` of this package is imported when it runs.

    `page` is the module that renders a document of its own; without one, the benchmark has a page
    under `docs/figures/`.
    """

    name: str
    module: str
    summary: str
    page: str | None = None


BENCHMARKS = (
    Benchmark("pipeline", "pipeline", "submitted → ready, compile alone, decision → active"),
    Benchmark("burst", "burst", "200 blueprints submitted together, at three signatures each"),
    Benchmark("compile-workers", "compile_workers", "1, 2 and 4 compile workers at a stated cost"),
    Benchmark("flood", "flood", "10,000 blueprints of one client, and the wait of another"),
    Benchmark("steps", "steps", "training steps with the pipeline busy, and with it off"),
    Benchmark("dormant", "dormant", "a dormant site against the plain layer"),
    Benchmark("executor", "executor", "a kernel against the same network as a plain module"),
    Benchmark("executor-cuda", "executor_cuda", "the same on a GPU"),
    Benchmark("seeds-cuda", "seeds_cuda", "a site with four kernels on a GPU against eager code"),
    Benchmark("passes", "passes", "gain of each pass of the optimiser on the CPU"),
    Benchmark("passes-cuda", "passes_cuda", "the same on a GPU"),
    Benchmark(
        "catalog", "kernel_costs", "cost of each shipped kernel against a layer", "catalog_page"
    ),
    Benchmark("auditions", "auditions", "auditions of six sites against a bare loop"),
    Benchmark("auditions-cuda", "auditions_cuda", "the same on a GPU"),
    Benchmark("snapshots", "snapshots", "snapshots for auditions, on the training thread"),
    Benchmark("decide", "decide", "one decision with 8 and with 10,000 arms"),
    Benchmark("decision-size", "decision_size", "bytes and time of a decision, 16 to 3,000 arms"),
    Benchmark("bandit", "bandit", "reports through the bandit worker against a bare loop"),
    Benchmark("memory-flat", "memory_flat", "memory of the bandit worker over a million reports"),
    Benchmark("trainers", "trainers", "200 open runs: what each hears, latency, worker memory"),
    Benchmark("governor", "governor", "runs whose kernels explode, and the cost of the governor"),
    Benchmark("grow-step", "grow_step", "Growth.step with 10 to 10,000 dormant seeds"),
    Benchmark("store", "store", "each tier of the kernel store against its bare client"),
    Benchmark(
        "chaos", "chaos", "random faults at every process; recovery and availability", "chaos.page"
    ),
    Benchmark("twin", "twin", "a training with a busy pipeline against one without Esper"),
)


def measure(name: str, *, quick: bool = False, **options: int) -> Result:
    """Run a benchmark and return its result; a quick result only shows that it runs.

    `options` are further arguments of its `run`.

    Raises:
        BenchmarkError: the name is unknown, or the benchmark could not measure.
    """
    found = {benchmark.name: benchmark for benchmark in BENCHMARKS}.get(name)
    if found is None:
        known = ", ".join(benchmark.name for benchmark in BENCHMARKS)
        raise BenchmarkError(f"no benchmark {name!r}; choose from: {known}")
    return measure_module(f"benchmarks.{found.module}", name, quick=quick, **options)


def measure_module(module: str, name: str, *, quick: bool, **options: int) -> Result:
    """Run `run(quick)` of a module; return the measurement with machine and commit."""
    run: Callable[..., Measurement] = import_module(module).run
    origin = {"machine": machine(), "commit": commit(), "modified": modified()}
    return Result(name=name, quick=quick, **origin, **dict(run(quick, **options)))
