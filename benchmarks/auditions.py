"""Auditions against a bare loop: the same kernels, one after another, on the same cached tensors.

Both sides take the same number of steps of Adam at each site. The auditions also measure gains and
return weights.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F

from benchmarks.result import Figure, Goal, Measurement, figure, ratio
from benchmarks.threads import one_thread
from benchmarks.timing import interleaved
from esper.audition import AuditionLoss, AuditionSite, SiteSnapshot, audition_kernel
from esper.audition.paths import kernel_path
from esper.audition.stack import has_convolution
from esper.blueprint import BlueprintRejected, shipped
from esper.compiler import BlueprintCompiler
from esper.kernel import KernelPlan
from esper.topics.models import SiteKind, SiteSignature

SITES: Final = 6
WIDTH: Final = 64
CLASSES: Final = 10
BATCH: Final = 128
SIGNATURE: Final = SiteSignature(kind=SiteKind.VECTOR, x=(WIDTH,), h=(WIDTH,))
STACKED: Final = Goal(sense="at least", limit=3.0)


class Workload(NamedTuple):
    """Rounds, samples of a site, and steps of an audition."""

    rounds: int
    samples: int
    steps: int


FULL: Final = Workload(rounds=5, samples=2000, steps=40)
QUICK: Final = Workload(rounds=1, samples=200, steps=4)


def run(quick: bool = False) -> Measurement:
    """Measure on the CPU."""
    return measure("cpu", quick)


def measure(device: str, quick: bool) -> Measurement:
    """Measure on a device."""
    workload = QUICK if quick else FULL
    with one_thread():
        sites = [_site(number, workload.samples, device) for number in range(SITES)]
        groups: dict[str, list[KernelPlan]] = {"dense": [], "convolution": []}
        for plan in _plans():
            groups["convolution" if has_convolution(plan) else "dense"].append(plan)
        figures = [
            one for name, group in groups.items() for one in _figures(name, group, sites, workload)
        ]
    return Measurement(
        parameters={
            **workload._asdict(),
            "device": torch.cuda.get_device_name() if device == "cuda" else device,
            "sites": SITES,
            "kernels": {name: len(group) for name, group in groups.items()},
        },
        figures=tuple(figures),
    )


def _figures(
    name: str, plans: Sequence[KernelPlan], sites: Sequence[AuditionSite], workload: Workload
) -> list[Figure]:
    seconds = interleaved(
        {
            "auditions": partial(_auditions, plans, sites, workload.steps),
            "bare_loop": partial(_bare_loop, plans, sites, workload.steps),
        },
        rounds=workload.rounds,
    )
    count = len(plans) * len(sites)
    rates = {side: [count / value for value in values] for side, values in seconds.items()}
    return [
        figure(
            f"{name}-rate",
            f"auditions of {workload.steps} steps per second, {name} kernels",
            "1/s",
            rates["auditions"],
        ),
        ratio(
            f"{name}-stacked",
            f"auditions per second ÷ those of a bare loop, {name} kernels",
            ("auditions", rates["auditions"]),
            ("bare_loop", rates["bare_loop"]),
            goal=STACKED,
        ),
    ]


def _auditions(plans: Sequence[KernelPlan], sites: Sequence[AuditionSite], steps: int) -> None:
    for plan in plans:
        audition_kernel(plan, sites, steps, seed=0)


def _bare_loop(plans: Sequence[KernelPlan], sites: Sequence[AuditionSite], steps: int) -> None:
    for plan in plans:
        for site in sites:
            path = kernel_path(plan, site.sizes, "0").to(site.fit.x.device)
            optimizer = torch.optim.Adam(path.parameters(), lr=5e-3)
            x, h, targets = site.fit.x, site.fit.h, site.fit.targets[:, 0]
            for _ in range(steps):
                rows = torch.randint(len(x), (BATCH,)).to(x.device)
                outputs = site.fit_outputs[rows, 0] + path(x[rows], h[rows])[:, 0]
                loss: Any = F.cross_entropy(outputs, targets[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            if x.is_cuda:
                torch.cuda.synchronize()


def _site(number: int, samples: int, device: str) -> AuditionSite:
    generator = torch.Generator().manual_seed(number)
    labels = torch.randint(CLASSES, (samples, 1), generator=torch.Generator().manual_seed(SITES))
    snapshot = SiteSnapshot(
        torch.randn(samples, WIDTH, generator=generator),
        torch.randn(samples, WIDTH, generator=generator),
        torch.randn(samples, 1, CLASSES, generator=generator),
        labels,
        AuditionLoss.CROSS_ENTROPY,
    )
    return AuditionSite.of(SIGNATURE, snapshot, device)


def _plans() -> list[KernelPlan]:
    """Return the plans of all shipped blueprints that fit the sites."""
    plans = []
    for blueprint in shipped():
        if SIGNATURE.kind in blueprint.kinds:
            try:
                plans.append(BlueprintCompiler().compile(blueprint, SIGNATURE))
            except BlueprintRejected:
                continue
    return plans
