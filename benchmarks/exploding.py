"""Exploding kernels: the fault injector, and the training that it disturbs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

import esper
from esper.kernel import Kernel
from esper.seed import Site
from esper.settings import Settings
from esper.topics.models import Selection, SelectionLimits
from esper.training import ON_TRIAL, GovernorSettings, Growth

HUGE: Final = 1e6
SCALE: Final = 1e3
GROWTH: Final = 1.2
INPUTS, HIDDEN, OUTPUTS = 16, 24, 8
TEACHER_HIDDEN: Final = 6
"""Hidden units of the teacher. With 24, other batches alone change the final loss by over 1 %."""

NOISE: Final = 0.5
BATCH: Final = 64
STEPS: Final = 1600
REPORT_EVERY: Final = 10
JUDGED_ON: Final = 8192


class Explosion(StrEnum):
    """The kind of an explosion."""

    HUGE = "huge weights"
    NAN = "weights not a number"
    SCALED = "output scaled"
    GROWING = "weights growing"


@dataclass
class Injector:
    """Makes every kernel explode after `after` steps on trial; call it between steps.

    Fossilized kernels are part of the host and do not explode.
    """

    explosion: Explosion
    after: int
    exploded: int = 0
    _ages: dict[Kernel, int] = field(default_factory=dict)

    def __call__(self, sites: Mapping[str, Site]) -> None:
        """Count one step for every planted kernel."""
        for site in sites.values():
            for slot, seed in site.seeds():
                if slot.state not in ON_TRIAL:
                    continue
                kernel = seed.kernel
                self._ages[kernel] = age = self._ages.get(kernel, -1) + 1
                if age == self.after:
                    self.exploded += 1
                    self._explode(kernel)
                if age >= self.after and self.explosion is Explosion.GROWING:
                    _multiply(kernel, GROWTH)

    def _explode(self, kernel: Kernel) -> None:
        match self.explosion:
            case Explosion.HUGE:
                _fill(kernel, HUGE)
            case Explosion.NAN:
                _fill(kernel, torch.nan)
            case Explosion.SCALED:
                # Fresh kernels end in zero weights, which scaling does not change.
                _fill(kernel, 0.1)
                kernel.register_forward_hook(lambda kernel, inputs, output: output * SCALE)
            case Explosion.GROWING:
                _fill(kernel, 0.1)


def _fill(kernel: Kernel, value: float) -> None:
    for parameter in kernel.parameters():
        parameter.detach().fill_(value)


def _multiply(kernel: Kernel, factor: float) -> None:
    for parameter in kernel.parameters():
        parameter.detach().mul_(factor)


class Regressor(nn.Module):
    """Two linear layers, (B, 16) to (B, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(INPUTS, HIDDEN), nn.Linear(HIDDEN, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        """Return the prediction."""
        result: Tensor = self.second(F.relu(self.first(x)))
        return result


class Teacher:
    """The target function: a network smaller than the host, plus noise.

    Mean squared errors end near the variance of the noise, 0.25, so that losses are comparable.
    """

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._first = torch.randn(TEACHER_HIDDEN, INPUTS, generator=generator) / INPUTS**0.5
        self._second = (
            torch.randn(OUTPUTS, TEACHER_HIDDEN, generator=generator) / TEACHER_HIDDEN**0.5
        )

    def batch(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return inputs (count, 16) and targets (count, 8) of a seed."""
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(count, INPUTS, generator=generator)
        y = F.relu(x @ self._first.T) @ self._second.T
        return x, y + NOISE * torch.randn(y.shape, generator=generator)


@dataclass(frozen=True)
class Ended:
    """A finished run: loss on unseen samples, weights, growth, and exploded kernels."""

    loss: float
    weights: dict[str, Tensor]
    growth: Growth | None = None
    exploded: int = 0


def never_grown(seed: int, steps: int = STEPS, other_batches: int = 0) -> Ended:
    """Train the host alone; `other_batches` shifts the batches, to measure their random effect."""
    return _trained(seed, steps, None, None, other_batches)


def grown(
    settings: Settings,
    seed: int,
    injector: Injector | None,
    *,
    governor: bool | GovernorSettings = True,
    steps: int = STEPS,
    replay: esper.RunRecording | None = None,
) -> Ended:
    """Train the same host on the same batches in lockstep; `injector` makes kernels explode."""

    def attach(model: nn.Module, optimizer: Optimizer, **given: Any) -> Growth:
        if replay is not None:
            return esper.replay(replay, model, optimizer, governor=governor, **given)
        return esper.grow(
            model,
            optimizer,
            **given,
            run="exploding",
            report_every=REPORT_EVERY,
            seed=seed,
            config=esper.GrowConfig(
                settings=settings,
                governor=governor,
                lockstep=True,
                selection=Selection(limits=SelectionLimits(dormant_reports=2)),
            ),
        )

    return _trained(seed, steps, injector, attach)


def _trained(
    seed: int,
    steps: int,
    injector: Injector | None,
    attach: Callable[..., Growth] | None,
    other_batches: int = 0,
) -> Ended:
    torch.manual_seed(seed)
    teacher, model = Teacher(seed), Regressor()
    optimizer = Adam(model.parameters(), lr=1e-2)
    growth = None
    if attach is not None:
        growth = attach(
            model,
            optimizer,
            sites=["first", "second"],
            probe=teacher.batch(256, seed=1 << 40),
            loss_fn=F.mse_loss,
        )
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * min(1.0, 2 * (1 - step / (steps + 1)))
        x, y = teacher.batch(BATCH, seed=seed * 1_000_003 + step + other_batches)
        loss = F.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if growth is not None:
            growth.step(loss)
            if injector is not None:
                injector(growth.sites)
    with torch.no_grad():
        x, y = teacher.batch(JUDGED_ON, seed=1 << 41)
        judged = float(F.mse_loss(model(x), y))
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    if growth is not None:
        growth.close()
    return Ended(judged, weights, growth, 0 if injector is None else injector.exploded)
