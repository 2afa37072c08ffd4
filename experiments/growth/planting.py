"""Plant kernels by a schedule instead of decisions, along the same path: build, reserve, apply.

Controls without a bandit grow this way.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import Final, NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.result import BenchmarkError
from esper.blueprint import request_for, shipped
from esper.compiler import BuildResult, Built, build_kernel
from esper.kernel import Kernel, load_kernel
from esper.orchestrator import FULL_ALPHA
from esper.seed import Site, find_sites
from esper.tasks import Task
from esper.topics.codec import digest, sha256_of
from esper.topics.models import (
    AdaptationDecision,
    Blueprint,
    Cause,
    Plant,
    PolicySpec,
    PolicyStamp,
    RandomStamp,
    SeedState,
    SiteSignature,
)
from esper.training import OptimizerMembership, SeedManager

SCHEDULE: Final = PolicySpec(name="schedule")
GROWN: Final = (SeedState.BLENDING, SeedState.ACTIVE, SeedState.FOSSILIZED)


class ScheduledPlant(NamedTuple):
    """Plant a blueprint at a site after `step` training steps."""

    step: int
    site: str
    blueprint_id: str


class KernelBuilder:
    """Builds kernels as a compile worker does, each once; `spent_s` is the time of all builds."""

    def __init__(self, offered: Iterable[Blueprint]) -> None:
        self._offered = {blueprint.blueprint_id: blueprint for blueprint in offered}
        self._made: dict[str, BuildResult] = {}
        self.spent_s = 0.0

    def outcome(self, blueprint_id: str, signature: SiteSignature) -> BuildResult | None:
        """Return the build outcome of a blueprint at a site; None for a site of another kind."""
        blueprint = self._offered[blueprint_id]
        if signature.kind not in blueprint.kinds:
            return None
        request = request_for(blueprint, signature)
        if request.kernel_id not in self._made:
            start = perf_counter()
            self._made[request.kernel_id] = build_kernel(request)
            self.spent_s += perf_counter() - start
        return self._made[request.kernel_id]

    def kernel(self, blueprint_id: str, signature: SiteSignature) -> Kernel:
        """Return a fresh kernel.

        Raises:
            BenchmarkError: the blueprint cannot be built at such a site.
        """
        made = self.outcome(blueprint_id, signature)
        if not isinstance(made, Built):
            raise BenchmarkError(f"{blueprint_id} cannot be built at {signature.text}: {made}")
        return load_kernel(made.artifact, made.sha256)

    def arms(self, sites: Mapping[str, Site]) -> dict[tuple[str, str], int]:
        """Return the parameter count of each (site, blueprint) that can be planted."""
        return {
            (site.name, name): made.characterisation.params
            for site in sites.values()
            for name in self._offered
            if isinstance(made := self.outcome(name, site.signature), Built)
        }


def offered_in(task: Task) -> list[Blueprint]:
    """Return the shipped blueprints that may be planted in a task."""
    allowed = task.blueprints
    return [entry for entry in shipped() if not allowed or entry.blueprint_id in allowed]


class ScheduledGrower:
    """Growth by a schedule, in place of `Growth`: call `step` after each training step."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        sites: Sequence[str],
        sample: Tensor,
        builder: KernelBuilder,
        schedule: Iterable[ScheduledPlant],
        ramp_steps: int,
        slots: int,
    ) -> None:
        self.sites = find_sites(model, sites, sample, slots)
        self._seed_manager = SeedManager(self.sites, OptimizerMembership(optimizer))
        self._builder = builder
        self._schedule = sorted(schedule)
        self._ramp_steps = ramp_steps
        self._step = 0
        self._plant_due()

    def step(self, loss: Tensor) -> None:
        """Plant the kernels that are due and advance blending seeds."""
        self._step += 1
        self._plant_due()
        self._seed_manager.ramp(self._step)

    def close(self) -> None:
        """Remove the seed parameters from the optimizer."""
        self._seed_manager.close()

    def _plant_due(self) -> None:
        while self._schedule and self._schedule[0].step <= self._step:
            self._plant(self._schedule.pop(0))

    def _plant(self, scheduled: ScheduledPlant) -> None:
        site = self.sites[scheduled.site]
        kernel = self._builder.kernel(scheduled.blueprint_id, site.signature)
        plant = Plant(
            site=site.name,
            slot=next(slot.index for slot in site.slots if slot.state is SeedState.DORMANT),
            kernel_id=kernel.sha256,
            blueprint_id=scheduled.blueprint_id,
            alpha=FULL_ALPHA,
            # A kernel planted before the first step starts at full alpha.
            ramp_steps=self._ramp_steps if self._step else 0,
        )
        decision = _decision(plant, self._step)
        self._seed_manager.reserve(decision, self._step)
        self._seed_manager.apply(decision, {plant.kernel_id: kernel}, self._step)
        self._seed_manager.ramp(self._step)


def grown_kernels(sites: Mapping[str, Site]) -> Iterator[tuple[str, str]]:
    """Yield (site, blueprint) of the kernels in the network, on trial or kept."""
    for site in sites.values():
        for slot in site.slots:
            if slot.state in GROWN and slot.planted is not None:
                yield site.name, slot.planted.blueprint_id


def kept_names(sites: Mapping[str, Site]) -> tuple[str, ...]:
    """Return the kernels in the network as `site/blueprint`."""
    return tuple("/".join(arm) for arm in grown_kernels(sites))


def _decision(plant: Plant, step: int) -> AdaptationDecision:
    """Return a decision that plants one kernel, without a worker behind it."""
    nothing = sha256_of(b"")
    return AdaptationDecision(
        decision_id=digest(plant),
        run_id=SCHEDULE.name,
        seq=step,
        index=0,
        strategy="diversify",
        operations=(plant,),
        reason="scheduled",
        apply_at_step=step + 1,
        cause=Cause(topic=SCHEDULE.name, partition=0, offset=0, seq=step, sha256=nothing),
        policy=PolicyStamp(name=SCHEDULE.name, version=0, params_sha256=digest(SCHEDULE)),
        candidates=(),
        random=RandomStamp(seed=0, seq=step, purpose=SCHEDULE.name),
        state_before_sha256=nothing,
        state_after_sha256=nothing,
        previous_sha256=None,
    )
