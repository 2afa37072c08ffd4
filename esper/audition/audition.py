"""The audition: train a kernel beside a frozen host, on snapshots of its sites, and score it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

import torch
from torch import Tensor

from esper.audition.paths import (
    AuditionPath,
    control_path,
    kernel_path,
    number_of,
    trained_weights,
)
from esper.audition.score import Score, gain_of, slope_of
from esper.audition.site import AuditionSite
from esper.audition.snapshot import SnapshotRefused, losses
from esper.audition.stack import PathStack, has_convolution, stacked
from esper.errors import EsperError
from esper.kernel import KernelPlan
from esper.topics.models import SiteKind

BATCH: Final = 128
LEARNING_RATE: Final = 5e-3

MAX_CURVE: Final = 32
FIRST_MEASUREMENT: Final = 20
"""Gains are measured after this many steps, after twice as many, and so on."""


@dataclass(frozen=True, slots=True)
class AuditionedKernel:
    """A kernel after its audition at one site.

    `curve` has the (steps, gain) pairs that were measured, `weights` the trained weights by
    parameter name; those of the last step are zeros.
    """

    score: Score
    curve: tuple[tuple[int, float], ...]
    weights: dict[str, Tensor]


class AuditionTooSlow(EsperError, TimeoutError):
    """A kernel took longer than its time limit."""


def audition_kernel(
    plan: KernelPlan,
    sites: Sequence[AuditionSite],
    steps: int,
    seed: int,
    limit_s: float = math.inf,
) -> tuple[AuditionedKernel, ...]:
    """Train a kernel for `steps` steps at each of `sites`, which have the plan's signature.

    All kernels see the same samples in the same order, so that their losses can be compared. Equal
    arguments give equal results on one machine.

    Raises:
        AuditionTooSlow: the steps took over `limit_s` seconds.
        SnapshotRefused: the snapshots of the sites hold different samples.
    """
    _check_alike(sites)
    deadline = monotonic() + limit_s
    found: list[AuditionedKernel] = []
    for group in _groups(sites, together=not (_on_cpu(sites) and has_convolution(plan))):
        path = kernel_path(plan, sites[0].sizes, f"{seed}/{plan.kernel_id}")
        training = _Training(path, group, seed)
        for index, score in enumerate(training.run(steps, deadline - monotonic())):
            weights = trained_weights(training.stack.path(index))
            curve = tuple(training.gains[index])[-MAX_CURVE:]
            found.append(AuditionedKernel(score, curve, weights))
    return tuple(found)


def audition_control(sites: Sequence[AuditionSite], steps: int, seed: int) -> tuple[Score, ...]:
    """Return the score, at each site, of a path like the host's own layer, after as many steps.

    Raises:
        SnapshotRefused: the snapshots of the sites hold different samples.
    """
    _check_alike(sites)
    one = sites[0]
    convolves = one.signature.kind is SiteKind.FEATURE_MAP
    found: list[Score] = []
    for group in _groups(sites, together=not (_on_cpu(sites) and convolves)):
        path = control_path(one.signature, one.sizes, f"{seed}/control")
        found.extend(_Training(path, group, seed).run(steps))
    return tuple(found)


class _Training:
    """Copies of one path in training, one a site; `gains` are the (step, gain) pairs of each."""

    def __init__(self, path: AuditionPath, sites: Sequence[AuditionSite], seed: int) -> None:
        self._sites, self._seed = sites, seed
        self.stack = PathStack(path.to(sites[0].fit.x.device), len(sites))
        self.gains: list[list[tuple[int, float]]] = [[(0, 0.0)] for _ in sites]
        self._x, self._h = (
            stacked(getattr(site.fit, name) for site in sites) for name in ("x", "h")
        )
        self._outputs = stacked(site.fit_outputs for site in sites)
        self._held_x, self._held_h = (
            stacked(getattr(site.held, name) for site in sites) for name in ("x", "h")
        )
        self._held_outputs = stacked(site.held_outputs for site in sites)
        self._optimizer = torch.optim.Adam(self.stack.parameters.values(), lr=LEARNING_RATE)

    def run(self, steps: int, limit_s: float = math.inf) -> tuple[Score, ...]:
        """Take all steps, and return the score at each site.

        Raises:
            AuditionTooSlow: the steps took over `limit_s` seconds.
        """
        deadline = monotonic() + limit_s
        devices = [self._x.device] if self._x.is_cuda else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(number_of(f"{self._seed}/steps"))
            for step, rows in self._batches(steps):
                self._take_step(rows)
                if monotonic() > deadline:
                    raise AuditionTooSlow(f"step {step} of {steps} came after the time limit")
                if _is_measured(step) and step != steps:
                    self._measure(step)
            measured = self._measure(steps)
        return tuple(
            Score(gain, error, slope_of(gains), steps)
            for (gain, error), gains in zip(measured, self.gains, strict=True)
        )

    def _take_step(self, rows: Tensor) -> None:
        outputs = self._outputs[:, rows] + self.stack(self._x[:, rows], self._h[:, rows])
        fit = self._sites[0].fit
        # The sum keeps the sites apart: no weight of one has a gradient from another.
        _descend(losses(fit.loss, outputs, fit.targets[rows]).mean(-1).sum(), self._optimizer)

    def _measure(self, step: int) -> list[tuple[float, float]]:
        """Return gain and error at each site, and note the gain."""
        self.stack.train(False)
        with torch.no_grad():
            outputs = self._held_outputs + self.stack(self._held_x, self._held_h)
            held = self._sites[0].held
            lost = losses(held.loss, outputs, held.targets)
        self.stack.train(True)
        found = [
            gain_of(site.held_losses, with_kernel)
            for site, with_kernel in zip(self._sites, lost, strict=True)
        ]
        for gains, (gain, _) in zip(self.gains, found, strict=True):
            gains.append((step, gain))
        return found

    def _batches(self, steps: int) -> Iterator[tuple[int, Tensor]]:
        """Yield each step with its rows."""
        generator = torch.Generator().manual_seed(number_of(f"{self._seed}/batches"))
        count = len(self._sites[0].fit)
        for step in range(1, steps + 1):
            rows = torch.randint(0, count, (min(BATCH, count),), generator=generator)
            yield step, rows.to(self._x.device)


def _groups(sites: Sequence[AuditionSite], *, together: bool) -> list[Sequence[AuditionSite]]:
    return [sites] if together else [(site,) for site in sites]


def _on_cpu(sites: Sequence[AuditionSite]) -> bool:
    return sites[0].fit.x.device.type == "cpu"


def _check_alike(sites: Sequence[AuditionSite]) -> None:
    first, *others = sites
    for site in others:
        alike = torch.equal(site.fit.targets, first.fit.targets)
        if not (alike and torch.equal(site.held.targets, first.held.targets)):
            raise SnapshotRefused(
                "the snapshots hold different samples; an audition trains a kernel at several "
                "sites on the same ones"
            )


def _descend(loss: Any, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _is_measured(step: int) -> bool:
    quotient, rest = divmod(step, FIRST_MEASUREMENT)
    return rest == 0 and quotient & (quotient - 1) == 0
