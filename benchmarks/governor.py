"""Benefit and cost of the governor.

Runs whose kernels explode, on a real stack in lockstep, against the same runs without growth; and
training steps with a governor against steps without, with reports and without kernels.
"""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, Final, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import Adam

from benchmarks.exploding import Explosion, Injector, grown, never_grown
from benchmarks.result import Figure, Goal, Measurement, figure, ratio
from benchmarks.stack import local_stack
from benchmarks.threads import one_thread
from benchmarks.timing import interleaved, scaled
from esper.blueprint import shipped_named
from esper.training import Governor, GovernorSettings, OptimizerMembership, SeedManager
from esper.workers.cli import publish_blueprints

BLUEPRINTS: Final = ("low-rank-skip", "gated-linear-unit", "linear-bottleneck")
SAVED: Final = Goal(sense="at most", limit=1.01, of="worst")
CHEAP: Final = Goal(sense="at most", limit=1.02)
REPORT_EVERY: Final = 50
BATCH: Final = 64


class Workload(NamedTuple):
    """Seeds; steps on trial after which kernels explode; steps of a run; rounds of timing."""

    seeds: tuple[int, ...]
    after: tuple[int, ...]
    steps: int
    rounds: int


FULL = Workload(seeds=tuple(range(5)), after=(2, 15, 40), steps=1600, rounds=8)
QUICK = Workload(seeds=(0,), after=(15,), steps=200, rounds=1)

HOSTS: Final = {"small": (32, 64, 10), "10m": (1024, 2560, 2816)}
"""Widths of a perceptron of three layers: 3 thousand parameters, and 10 million."""

SMALL_ROUNDS: Final = 10
"""Rounds of the small host per round of the large host, whose steps take longer."""


def run(quick: bool) -> Measurement:
    """Measure the final losses and the costs."""
    workload = QUICK if quick else FULL
    with one_thread():
        costs = [
            _cost(name, HOSTS["small"] if quick else widths, workload)
            for name, widths in HOSTS.items()
        ]
        rows = list(_exploded(workload))
        random_effect = [_random_effect(seed, workload.steps) for seed in workload.seeds]
    saved = [
        figure(
            f"final-loss-{explosion.name.lower()}",
            f"final loss ÷ that of the run never grown, kernels exploding: {explosion}",
            "ratio",
            [row["ratio"] for row in rows if row["explosion"] == explosion.value],
            goal=SAVED,
        )
        for explosion in Explosion
    ]
    control = figure(
        "final-loss-other-batches",
        "the same for runs never grown, on other batches: the random effect alone",
        "ratio",
        random_effect,
    )
    parameters = workload._asdict() | {"report_every": REPORT_EVERY, "batch": BATCH, "hosts": HOSTS}
    return Measurement(parameters=parameters, figures=(*saved, control, *costs), runs=tuple(rows))


def _exploded(workload: Workload) -> Iterator[dict[str, Any]]:
    """Yield a row per run: seed, time and kind of the explosion, and final loss."""
    with local_stack() as stack:
        publish_blueprints(stack.settings, map(shipped_named, BLUEPRINTS))
        alone = {seed: never_grown(seed, workload.steps).loss for seed in workload.seeds}
        for seed, after, explosion in product(workload.seeds, workload.after, Explosion):
            injector = Injector(explosion, after)
            ended = grown(stack.settings, seed, injector, steps=workload.steps)
            assert ended.growth is not None
            incidents = ended.growth.run_history.incidents
            yield {
                "seed": seed,
                "after": after,
                "explosion": explosion.value,
                "exploded": ended.exploded,
                "incidents": len(incidents),
                "never_grown": alone[seed],
                "loss": ended.loss,
                "ratio": ended.loss / alone[seed],
            }


def _random_effect(seed: int, steps: int) -> float:
    shifted = never_grown(seed, steps, other_batches=10 * steps)
    return shifted.loss / never_grown(seed, steps).loss


def _cost(name: str, widths: tuple[int, int, int], workload: Workload) -> Figure:
    taken = interleaved(
        {
            "with": _training(widths, governed=True),
            "without": _training(widths, governed=False),
        },
        rounds=workload.rounds * (SMALL_ROUNDS if name == "small" else 1),
    )
    per_step = {side: scaled(values, 1e6 / REPORT_EVERY) for side, values in taken.items()}
    return ratio(
        f"step-{name}",
        f"a training step with the governor ÷ without, a report in {REPORT_EVERY}: {name} host",
        ("with", per_step["with"]),
        ("without", per_step["without"]),
        goal=CHEAP,
    )


def _training(widths: tuple[int, int, int], *, governed: bool) -> Callable[[], None]:
    """Return a call that trains a host for one reporting interval."""
    torch.manual_seed(0)
    inputs, hidden, last = widths
    model = nn.Sequential(
        nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, last), nn.ReLU(), nn.Linear(last, 1)
    )
    optimizer = Adam(model.parameters())
    x, y = torch.randn(BATCH, inputs), torch.randn(BATCH, 1)
    governor: Governor | None = None
    if governed:
        seed_manager = SeedManager({}, OptimizerMembership(optimizer))
        governor = Governor(
            GovernorSettings(), model, seed_manager, REPORT_EVERY, lambda _: 0, lambda _: None
        )
        governor.begin()

    def train() -> None:
        for step in range(1, REPORT_EVERY + 1):
            optimizer.zero_grad()
            loss = F.mse_loss(model(x), y)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if governor is not None:
                governor.observe(loss, step)

    return train
