"""The benchmarks by name. A new one is a module with `run(quick)` and a row here."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from benchmarks.origin import commit, machine, modified
from benchmarks.result import BenchmarkError, Measured, Result


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark: `module` of this package is loaded when it runs.

    One with a `page`, a module that renders a document of its own, is not among the figures.
    `plots` is a module that draws pictures for it.
    """

    name: str
    module: str
    what: str
    page: str | None = None
    plots: str | None = None


BENCHMARKS = (
    Benchmark("pipeline", "pipeline", "submitted → ready, compile alone, decision → active"),
    Benchmark("burst", "burst", "200 blueprints at three signatures each, at once"),
    Benchmark("steps", "steps", "training steps with the pipeline busy, and with it off"),
    Benchmark("dormant", "dormant", "a dormant site against the plain layer"),
    Benchmark("executor", "executor", "a kernel against the same network as a plain module"),
    Benchmark("executor-cuda", "executor_cuda", "the same on a GPU"),
    Benchmark("seeds-cuda", "seeds_cuda", "a site with four kernels on a GPU against eager code"),
    Benchmark("passes", "passes", "what each pass of the optimiser gains, on the CPU"),
    Benchmark("passes-cuda", "passes_cuda", "the same on a GPU"),
    Benchmark(
        "catalog",
        "catalog_table",
        "what each shipped kernel costs beside a layer",
        page="catalog_page",
    ),
    Benchmark("decide", "decide", "one decision of 8 and of 10,000 arms"),
    Benchmark(
        "regret",
        "regret",
        "regret of every policy where the best arm is known",
        page="regret_page",
        plots="regret_plots",
    ),
    Benchmark("bandit", "bandit", "reports through the bandit worker against a bare loop"),
    Benchmark("memory-flat", "memory_flat", "what the bandit worker keeps of a million reports"),
    Benchmark("governor", "governor", "runs whose kernels explode, and what watching costs"),
    Benchmark("grow-step", "grow_step", "Growth.step with 10 to 10,000 dormant seeds"),
    Benchmark("twin", "twin", "a training with a busy pipeline against its twin without Esper"),
    Benchmark("convergence", "convergence", "what each policy comes to choose in real training"),
)


def measure(name: str, *, quick: bool = False) -> Result:
    """Run a benchmark and return its result; `quick` only shows that it works.

    Raises:
        BenchmarkError: there is no such benchmark, or it could not measure.
    """
    found = {benchmark.name: benchmark for benchmark in BENCHMARKS}.get(name)
    if found is None:
        known = ", ".join(benchmark.name for benchmark in BENCHMARKS)
        raise BenchmarkError(f"no benchmark {name!r}; there are {known}")
    run: Callable[[bool], Measured] = import_module(f"benchmarks.{found.module}").run
    origin = {"machine": machine(), "commit": commit(), "modified": modified()}
    measured = run(quick)
    return Result(name=name, quick=quick, **origin, **dict(measured))
