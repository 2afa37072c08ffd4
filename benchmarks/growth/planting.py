"""Kernels planted by a timetable instead of decisions, by the same path: built, reserved, applied.

So grow the controls that choose nothing while they train.
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
from esper.tasks.train import Task
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
    Strategy,
)
from esper.training.optimizer import OptimizerMembership
from esper.training.seed_manager import SeedManager

TIMETABLE: Final = PolicySpec(name="timetable")
GROWN: Final = (SeedState.BLENDING, SeedState.ACTIVE, SeedState.FOSSILIZED)


class Planting(NamedTuple):
    """What is planted where, once so many steps were taken."""

    step: int
    site: str
    blueprint_id: str


class Workshop:
    """Builds kernels of some blueprints as a compile worker does, each once; counts the time."""

    def __init__(self, offered: Iterable[Blueprint]) -> None:
        self._offered = {blueprint.blueprint_id: blueprint for blueprint in offered}
        self._made: dict[str, BuildResult] = {}
        self.spent_s = 0.0

    def outcome(self, blueprint_id: str, signature: SiteSignature) -> BuildResult | None:
        """Return what becomes of a blueprint at a site; None where it is for other kinds."""
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
            BenchmarkError: there is none of this blueprint at such a site.
        """
        made = self.outcome(blueprint_id, signature)
        if not isinstance(made, Built):
            raise BenchmarkError(f"{blueprint_id} makes no kernel at {signature.text}: {made}")
        return load_kernel(made.artifact, made.sha256)

    def arms(self, sites: Mapping[str, Site]) -> dict[tuple[str, str], int]:
        """Return the parameters of each (site, blueprint) that can be planted."""
        return {
            (site.name, name): made.characterisation.params
            for site in sites.values()
            for name in self._offered
            if isinstance(made := self.outcome(name, site.signature), Built)
        }


def offered_in(task: Task) -> list[Blueprint]:
    """Return the shipped blueprints that may be planted in a task."""
    allowed = task.blueprints
    return [each for each in shipped() if not allowed or each.blueprint_id in allowed]


class Gardener:
    """Growth by a timetable, in the place of that which decides: call `step` after each step."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        sites: Sequence[str],
        sample: Tensor,
        workshop: Workshop,
        timetable: Iterable[Planting],
        ramp_steps: int,
        slots: int,
    ) -> None:
        self.sites = find_sites(model, sites, sample, slots)
        self._seed_manager = SeedManager(self.sites, OptimizerMembership(optimizer))
        self._workshop = workshop
        self._timetable = sorted(timetable)
        self._ramp_steps = ramp_steps
        self._step = 0
        self._plant_due()

    def step(self, loss: Tensor) -> None:
        """Plant what is due, and move blending seeds on."""
        self._step += 1
        self._plant_due()
        self._seed_manager.ramp(self._step)

    def close(self) -> None:
        """Let go of the optimizer."""
        self._seed_manager.close()

    def _plant_due(self) -> None:
        while self._timetable and self._timetable[0].step <= self._step:
            self._plant(self._timetable.pop(0))

    def _plant(self, planting: Planting) -> None:
        site = self.sites[planting.site]
        kernel = self._workshop.kernel(planting.blueprint_id, site.signature)
        plant = Plant(
            site=site.name,
            slot=next(slot.index for slot in site.slots if slot.state is SeedState.DORMANT),
            kernel_id=kernel.sha256,
            blueprint_id=planting.blueprint_id,
            alpha=FULL_ALPHA,
            # What is there from the start is there whole.
            ramp_steps=self._ramp_steps if self._step else 0,
        )
        decision = _by_timetable(plant, self._step)
        self._seed_manager.reserve(decision, self._step)
        self._seed_manager.apply(decision, {plant.kernel_id: kernel}, self._step)
        self._seed_manager.ramp(self._step)


def grown_in(sites: Mapping[str, Site]) -> Iterator[tuple[str, str]]:
    """Yield (site, blueprint) of what is in the network, for good or not."""
    for site in sites.values():
        for slot in site.slots:
            if slot.state in GROWN and slot.planted is not None:
                yield site.name, slot.planted.blueprint_id


def kept_in(sites: Mapping[str, Site]) -> tuple[str, ...]:
    """Return the same as a row has it."""
    return tuple("/".join(arm) for arm in grown_in(sites))


def _by_timetable(plant: Plant, step: int) -> AdaptationDecision:
    """Return the decision that plants one kernel, as no worker has made it."""
    nothing = sha256_of(b"")
    return AdaptationDecision(
        decision_id=digest(plant),
        run_id=TIMETABLE.name,
        seq=step,
        index=0,
        strategy=Strategy.DIVERSIFY,
        operations=(plant,),
        reason="its time has come",
        apply_at_step=step + 1,
        cause=Cause(topic=TIMETABLE.name, partition=0, offset=0, seq=step, sha256=nothing),
        policy=PolicyStamp(name=TIMETABLE.name, version=0, params_sha256=digest(TIMETABLE)),
        candidates=(),
        random=RandomStamp(seed=0, seq=step, purpose=TIMETABLE.name),
        state_before_sha256=nothing,
        state_after_sha256=nothing,
        previous_sha256=None,
    )
