"""`Growth.step` and a plan's application with 10 to 10,000 seeds, none or one of them changing.

The step runs on a real stack in a run that never reports. Applying and reporting are timed on
their own parts, without the probe, whose cost is the host's forward pass.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD

import esper
from benchmarks.result import Figure, Goal, Measurement, figure, ratio
from benchmarks.stack import Stack, local_stack
from benchmarks.threads import one_thread
from benchmarks.timing import interleaved, scaled
from esper.blueprint import shipped_named
from esper.compiler import BlueprintCompiler, initial_tensors
from esper.kernel import Kernel
from esper.seed import find_sites
from esper.topics.codec import sha256_of
from esper.topics.models import (
    AdaptationDecision,
    Cause,
    Cull,
    Operation,
    Plant,
    PolicySpec,
    PolicyStamp,
    RandomStamp,
    RunConfig,
    SeedState,
)
from esper.training import OptimizerMembership, ProbeResult, Reporter, SeedManager

SLOTS_A_SITE: Final = 2
WIDTH: Final = 4
NEVER: Final = 1 << 40
FLAT: Final = Goal(sense="at most", limit=1.25)
BLUEPRINT: Final = "low-rank-skip"


class Workload(NamedTuple):
    """Numbers of seeds in ascending order, rounds, and calls of a round."""

    seeds: tuple[int, ...]
    rounds: int
    repeats: int


FULL: Final = Workload(seeds=(10, 100, 1_000, 10_000), rounds=200, repeats=100)
QUICK: Final = Workload(seeds=(10, 100), rounds=3, repeats=3)


def run(quick: bool = False) -> Measurement:
    """Measure on a new stack."""
    with local_stack() as stack:
        return measure(stack, QUICK if quick else FULL)


def measure(stack: Stack, workload: Workload) -> Measurement:
    """Measure on a running stack."""
    with one_thread():
        figures = [*_none_changing(stack, workload), *_one_changing(workload), _poll(workload)]
    return Measurement(
        parameters={**workload._asdict(), "slots_a_site": SLOTS_A_SITE}, figures=tuple(figures)
    )


class Layers(nn.Module):
    """A host of `count` small layers in a row."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(count)))

    @property
    def names(self) -> list[str]:
        """The names of the sites."""
        return [f"layers.{number}" for number in range(len(self.layers))]

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, WIDTH) for (B, WIDTH)."""
        y: Tensor = self.layers(x)
        return y


def _none_changing(stack: Stack, workload: Workload) -> Iterator[Figure]:
    """Yield the time of a step without changes, by number of seeds."""
    with ExitStack() as runs:
        steps = {
            str(seeds): runs.enter_context(_step_of_a_run(stack, seeds)) for seeds in workload.seeds
        }
        seconds = interleaved(steps, rounds=workload.rounds, repeats=workload.repeats)
    yield from _by_seeds("step", "growth.step, none changing", seconds, FLAT)


@contextmanager
def _step_of_a_run(stack: Stack, seeds: int) -> Iterator[Callable[[], None]]:
    """Yield a call of `growth.step` in a run on a host with `seeds` seeds."""
    host = Layers(seeds // SLOTS_A_SITE)
    with esper.grow(
        host,
        SGD(host.parameters(), lr=0.1),
        sites=host.names,
        probe=(torch.zeros(1, WIDTH), torch.zeros(1, WIDTH)),
        loss_fn=F.mse_loss,
        run="benchmark",
        slots=SLOTS_A_SITE,
        report_every=NEVER,
        config=esper.GrowConfig(settings=stack.settings),
    ) as growth:
        yield partial(growth.step, torch.zeros(()))


def _one_changing(workload: Workload) -> Iterator[Figure]:
    """Yield the time to plant and cull one kernel, and to report, by number of seeds."""
    fixtures = {str(seeds): _SeedFixture(seeds) for seeds in workload.seeds}
    changes = interleaved(
        {seeds: fixture.plant_and_cull for seeds, fixture in fixtures.items()},
        rounds=workload.rounds,
    )
    yield from _by_seeds("change", "one seed planted and culled", changes, FLAT)
    reports = interleaved(
        {seeds: fixture.report for seeds, fixture in fixtures.items()},
        rounds=workload.rounds,
    )
    yield from _by_seeds("report", "one report made, without the probe", reports, None)


def _by_seeds(
    key: str, title: str, seconds: dict[str, list[float]], goal: Goal | None
) -> Iterator[Figure]:
    """Yield a figure per number of seeds, and the ratio of the largest to the smallest."""
    micros = {seeds: scaled(values, 1e6) for seeds, values in seconds.items()}
    for seeds, values in micros.items():
        yield figure(f"{key}-{seeds}", f"{title}, of {int(seeds):,} seeds", "µs", values)
    fewest, *_, most = micros
    yield ratio(
        f"{key}-flat",
        f"{title}: {int(most):,} ÷ {int(fewest):,} seeds",
        (f"of_{most}_us", micros[most]),
        (f"of_{fewest}_us", micros[fewest]),
        goal=goal,
    )


class _SeedFixture:
    """A seed manager with dormant seeds, and plans that plant and cull at the last site."""

    def __init__(self, seeds: int) -> None:
        host = Layers(seeds // SLOTS_A_SITE)
        sites = find_sites(host, host.names, torch.zeros(1, WIDTH), SLOTS_A_SITE)
        self._seed_manager = SeedManager(sites, OptimizerMembership(SGD(host.parameters(), lr=0.1)))
        self._site = sites[host.names[-1]]
        blueprint = shipped_named(BLUEPRINT)
        plan = BlueprintCompiler().compile(blueprint, self._site.signature)
        self._kernels = {plan.kernel_id: Kernel(plan, initial_tensors(plan), sha256="")}
        site, kernel_id = self._site.name, plan.kernel_id
        self._cull = decision_of(Cull(site=site, slot=0, kernel_id=kernel_id))
        self._plant = decision_of(
            Plant(
                site=site,
                slot=0,
                kernel_id=kernel_id,
                blueprint_id=BLUEPRINT,
                alpha=1.0,
                ramp_steps=20,
            )
        )
        self._reporter = Reporter("benchmark", _run_config(host.names))

    def plant_and_cull(self) -> None:
        """Apply a plan that plants and one that culls; the slot ends dormant."""
        for plan in (self._plant, self._cull):
            self._seed_manager.reserve(plan, step=1)
            self._seed_manager.apply(plan, self._kernels, step=1)
        self._site.slots[0].advance(SeedState.DORMANT, step=1)

    def report(self) -> None:
        """Make a report without the probe."""
        self._seed_manager.end_embargoes(1, 20)
        self._reporter.next(self._seed_manager.sites, ProbeResult(0.5, {}), step=1, train_loss=None)


def _poll(workload: Workload) -> Figure:
    mailbox, queue = deque[object](), deque[object]()
    seconds = interleaved(
        {"poll": lambda: mailbox or queue}, rounds=workload.rounds, repeats=workload.repeats
    )
    return figure("poll", "polling an empty mailbox", "µs", scaled(seconds["poll"], 1e6))


def _run_config(names: list[str]) -> RunConfig:
    return RunConfig(
        seed=0,
        slots=dict.fromkeys(names, SLOTS_A_SITE),
        policy=PolicySpec(),
        host_params=1,
        report_interval_steps=20,
    )


def decision_of(*operations: Operation) -> AdaptationDecision:
    """Return a decision with these operations."""
    digest = sha256_of("/".join(operation.op for operation in operations).encode())
    return AdaptationDecision(
        decision_id=digest,
        run_id="benchmark",
        seq=0,
        index=0,
        strategy="diversify",
        operations=operations,
        reason="benchmark",
        apply_at_step=1,
        cause=Cause(topic="seed-metrics", partition=0, offset=0, seq=0, sha256=digest),
        policy=PolicyStamp(name="ucb1", version=1, params_sha256=digest),
        candidates=(),
        random=RandomStamp(seed=0, seq=0, purpose="tie-break"),
        state_before_sha256=digest,
        state_after_sha256=digest,
        previous_sha256=None,
    )
