"""The audition: train kernels beside a frozen host, on a snapshot of their site, and score them.

What the host would learn alone is taken off first: kernels start from the outputs that readouts of
the host's own outputs and of `h` have corrected.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from esper.audition.host import corrected_outputs
from esper.audition.paths import (
    AuditionPath,
    control_path,
    kernel_path,
    number_of,
    trained_weights,
)
from esper.audition.readout import readout_sizes
from esper.audition.score import Score, gain_of, slope_of
from esper.audition.snapshot import SiteSnapshot, losses
from esper.kernel import KernelPlan
from esper.topics.models import SiteSignature

BATCH: Final = 128
LEARNING_RATE: Final = 5e-3
FIT_SHARE: Final = 0.7
"""Share of the samples to train on; the rest score."""

CONTROL: Final = "control"
MAX_CURVE: Final = 32
FIRST_MEASUREMENT: Final = 10
"""Gains are measured after this many steps, after twice as many, and so on."""


@dataclass(slots=True)
class _Contestant:
    """A path in training, its score after `step` steps, and its (step, gain) measurements."""

    path: AuditionPath
    optimizer: torch.optim.Optimizer
    step: int = 0
    score: Score | None = None
    gains: list[tuple[int, float]] = field(default_factory=lambda: [(0, 0.0)])


class SiteAudition:
    """Kernels at one site, on one snapshot. Equal arguments give equal scores on one machine.

    All kernels see the same samples in the same order, so that their losses can be compared.
    """

    def __init__(
        self,
        signature: SiteSignature,
        snapshot: SiteSnapshot,
        seed: int,
    ) -> None:
        """Fit what the host would learn alone.

        Raises:
            SnapshotRefused: the outputs have positions that the site does not have.
        """
        self._signature, self._seed = signature, seed
        self._sizes = readout_sizes(signature, *snapshot.outputs.shape[1:])
        self._fit, self._held = snapshot.in_single_precision().split(FIT_SHARE)
        self._fit_outputs, self._held_outputs = corrected_outputs(
            self._fit, self._held, self._sizes
        )
        self._held_losses = losses(snapshot.loss, self._held_outputs, self._held.targets)
        self._contestants: dict[str, _Contestant] = {}

    @property
    def host_loss(self) -> float:
        """The held-out loss without a kernel, after the host's own correction."""
        return float(self._held_losses.mean())

    def run(self, plan: KernelPlan, until: int) -> Score:
        """Train a kernel up to `until` steps in all, and return its score.

        The score does not depend on the number of calls in which the steps were taken.
        """
        key = plan.kernel_id
        return self._scored(
            key, until, lambda: kernel_path(plan, self._sizes, f"{self._seed}/{key}")
        )

    def control(self, until: int) -> Score:
        """Return the score of a path like the host's own layer, after as many steps."""
        return self._scored(
            CONTROL,
            until,
            lambda: control_path(self._signature, self._sizes, f"{self._seed}/{CONTROL}"),
        )

    def curve(self, kernel_id: str) -> tuple[tuple[int, float], ...]:
        """Return the (steps, gain) pairs measured so far, at most the last `MAX_CURVE`."""
        return tuple(self._contestants[kernel_id].gains)[-MAX_CURVE:]

    def weights(self, kernel_id: str) -> dict[str, Tensor]:
        """Return the trained weights of a kernel; those of the last step are zeros."""
        return trained_weights(self._contestants[kernel_id].path)

    def _scored(self, key: str, until: int, new_path: Callable[[], AuditionPath]) -> Score:
        one = self._contestants.get(key)
        # What went further, before an earlier request came again, starts again.
        if one is None or until < one.step:
            path = new_path()
            one = _Contestant(path, torch.optim.Adam(path.parameters(), lr=LEARNING_RATE))
            self._contestants[key] = one
        if one.score is None or until > one.step:
            one.score = self._train(one, until)
        return one.score

    def _train(self, one: _Contestant, until: int) -> Score:
        with torch.random.fork_rng(devices=[]):
            for step, rows in self._batches(one.step, until):
                self._take_step(one, rows)
                one.step = step
                if _is_measured(step) and step != until:
                    one.gains.append((step, self._measured(one.path)[0]))
            gain, error = self._measured(one.path)
        if one.gains[-1][0] != until:
            one.gains.append((until, gain))
        return Score(gain, error, slope_of([*_on_grid(one.gains, until), (until, gain)]), until)

    def _take_step(self, one: _Contestant, rows: Tensor) -> None:
        fit = self._fit
        one.path.train()
        outputs = self._fit_outputs[rows] + one.path(fit.x[rows], fit.h[rows])
        _descend(losses(fit.loss, outputs, fit.targets[rows]).mean(), one.optimizer)

    def _measured(self, path: AuditionPath) -> tuple[float, float]:
        held = self._held
        path.eval()
        with torch.no_grad():
            outputs = self._held_outputs + path(held.x, held.h)
            return gain_of(self._held_losses, losses(held.loss, outputs, held.targets))

    def _batches(self, start: int, until: int) -> Iterator[tuple[int, Tensor]]:
        """Yield each step with its rows, and seed what the step draws: the same for every path."""
        size = min(BATCH, len(self._fit))
        for step in range(start + 1, until + 1):
            torch.manual_seed(number_of(f"{self._seed}/{step}"))
            yield step, torch.randint(0, len(self._fit), (size,))


def _descend(loss: Any, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _is_measured(step: int) -> bool:
    quotient, rest = divmod(step, FIRST_MEASUREMENT)
    return rest == 0 and quotient & (quotient - 1) == 0


def _on_grid(gains: list[tuple[int, float]], until: int) -> list[tuple[int, float]]:
    """Return the measurements before `until` that do not depend on where earlier calls ended."""
    return [
        (step, gain) for step, gain in gains if step < until and (_is_measured(step) or not step)
    ]
