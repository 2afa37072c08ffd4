"""Decisions taking effect: whole plans, between two steps, in the order in which they came."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack

from pydantic import BaseModel, ConfigDict
from torch.optim import Optimizer

from esper.kernel import Kernel
from esper.seed import (
    STREAMS,
    GradientSynchronizer,
    IllegalTransition,
    MergeRefused,
    Seed,
    Site,
    Slot,
    merge,
)
from esper.topics.models import (
    AdaptationDecision,
    Cull,
    Fossilize,
    Operation,
    Plant,
    Reweight,
    SeedState,
)
from esper.training.gradients import GradientNorms
from esper.training.optimizer import OptimizerMembership, ParameterUntrained

log = logging.getLogger("esper")


class SlotSnapshot(BaseModel):
    """A slot that is not dormant, as a checkpoint keeps it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    site: str
    slot: int
    state: SeedState
    planted: Plant | None
    decision_id: str | None
    since_step: int
    merged_sha256: str | None
    reweighted: Reweight | None = None
    alpha_before: float = 0.0


class PlanRefused(ValueError):
    """A plan that cannot be applied as a whole; nothing of it was."""


Agreement = Callable[[str], str]
"""Given why a plan failed here, empty where it did not: why it failed on any rank."""


def _alone(own: str) -> str:
    """One process agrees with itself."""
    return own


class SeedManager:
    """The sites of a model with the optimizer that trains them: where plans are applied.

    Over several ranks a synchronizer reduces the gradients of what is planted. `plans` counts those
    that were applied.
    """

    def __init__(
        self,
        sites: Mapping[str, Site],
        membership: OptimizerMembership,
        synchronizer: GradientSynchronizer | None = None,
    ) -> None:
        """Raise ParameterUntrained where the optimizer does not train the layer of a site."""
        for site in sites.values():
            membership.check(site.name, site.layer)
        self.sites = sites
        self._membership = membership
        self._synchronizer = synchronizer
        self._blending: list[tuple[Slot, Seed]] = []
        self.applied_plans = 0

    def set_optimizer(self, membership: OptimizerMembership) -> None:
        """Have another optimizer train what is planted, and what will be.

        Raises:
            ParameterUntrained: it does not train the layer of a site; nothing has changed.
        """
        for site in self.sites.values():
            membership.check(site.name, site.layer)
        for site in self.sites.values():
            for slot, seed in site.seeds():
                names = seed.named_parameters(prefix=site.path_of(slot.index))
                membership.add(site.name, site.layer, names)
        self._membership.close()
        self._membership = membership

    def measure_gradients(self, norms: GradientNorms) -> None:
        """Have the gradients of the sites' layers measured in the optimizer's next step."""
        norms.measure_next_step(self._membership)

    def optimizer_stepped(self) -> bool:
        """Whether the optimizer has taken a step since this was last asked."""
        return self._membership.stepped()

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer that trains what is planted."""
        return self._membership.optimizer

    def close(self) -> None:
        """Let go of the optimizer and of gradients: the run has ended."""
        self._membership.close()
        if self._synchronizer is not None:
            self._synchronizer.close()

    def planted(self) -> list[tuple[Slot, Seed]]:
        """Return what is planted, in the order in which the optimizer has its parameters."""
        pairs = [pair for site in self.sites.values() for pair in site.seeds()]
        return sorted(pairs, key=lambda pair: self._membership.where(pair[1].parameters()))

    def snapshot(self) -> Iterator[SlotSnapshot]:
        """Yield the slots that are not dormant; what is still loading will be asked for again."""
        for site in self.sites.values():
            for slot in site.slots:
                if slot.state not in (SeedState.DORMANT, SeedState.LOADING):
                    yield SlotSnapshot(
                        site=slot.site,
                        slot=slot.index,
                        state=slot.state,
                        planted=slot.planted,
                        decision_id=slot.decision_id,
                        since_step=slot.since_step,
                        merged_sha256=slot.merged_sha256,
                        reweighted=slot.reweighted,
                        alpha_before=slot.alpha_before,
                    )

    def restore(
        self, snapshots: Iterable[SlotSnapshot], kernels: Mapping[tuple[str, int], Kernel]
    ) -> None:
        """Fill a fresh garden as another was; kernels by (site, slot), in the optimizer's order."""
        for snapshot in snapshots:
            slot = self.sites[snapshot.site].slots[snapshot.slot]
            slot.state, slot.since_step = snapshot.state, snapshot.since_step
            slot.planted, slot.decision_id = snapshot.planted, snapshot.decision_id
            slot.merged_sha256 = snapshot.merged_sha256
            slot.reweighted, slot.alpha_before = snapshot.reweighted, snapshot.alpha_before
        for (name, index), kernel in kernels.items():
            site = self.sites[name]
            slot, seed = site.slots[index], self._join(site, index, kernel)
            if slot.state is SeedState.BLENDING:
                self._blending.append((slot, seed))

    def reserve(self, decision: AdaptationDecision, step: int) -> None:
        """Set the slots that a decision would fill to LOADING, while its kernels are built.

        Raises:
            PlanRefused: an operation is not possible; all slots are as before.
        """
        slots = {(operation.site, operation.slot) for operation in decision.operations}
        if len(slots) != len(decision.operations):
            raise PlanRefused("two operations of the plan are on the same seed")
        if len(set(kernels_needed(decision))) != len(kernels_needed(decision)):
            # They would share one set of weights, which the first cull would stop training.
            raise PlanRefused("the plan plants one kernel twice; plant it in two decisions")
        for operation in decision.operations:
            self._check(operation)
        for plant in _plants(decision):
            self._slot(plant).advance(SeedState.LOADING, step)

    def release(self, decision: AdaptationDecision, step: int) -> None:
        """Undo `reserve`: the kernels could not be loaded."""
        for plant in _plants(decision):
            self._slot(plant).advance(SeedState.DORMANT, step)

    def check(self, decision: AdaptationDecision, kernels: Mapping[str, Kernel]) -> None:
        """Raise PlanRefused unless all operations of a reserved decision can be applied now."""
        for operation in decision.operations:
            if isinstance(operation, Plant):
                self._check_fit(operation, kernels[operation.kernel_id])
            else:
                self._check(operation)

    def apply(
        self,
        decision: AdaptationDecision,
        kernels: Mapping[str, Kernel],
        step: int,
        agreed: Agreement = _alone,
    ) -> None:
        """Apply all operations of a reserved decision, with a fresh kernel for each plant.

        Whatever an operation raises, those before it and the half of it are taken back. Over
        several ranks `agreed` is given why it failed on this one, or nothing, and returns why it
        failed on any: then all take it back.

        Raises:
            PlanRefused: it could not be applied; all is as before, bit for bit.
        """
        with ExitStack() as undo:
            try:
                self.check(decision, kernels)
                for operation in decision.operations:
                    self._apply_one(operation, decision, kernels, step, undo)
                own = ""
            except PlanRefused as refusal:
                own = str(refusal)
            except Exception as error:
                log.exception("decision %s is taken back", decision.decision_id[:12])
                own = f"the plan failed and is taken back: {type(error).__name__}: {error}"
            if reasons := agreed(own):
                raise PlanRefused(reasons)
            undo.pop_all()
        self.applied_plans += 1

    def roll_back(self, slots: Iterable[Slot], step: int) -> None:
        """Take out the seeds of these slots, which an incident has spoiled: all, or none."""
        with ExitStack() as undo:
            for slot in slots:
                undo.callback(slot.keep())
                self._take_out(slot, SeedState.ROLLED_BACK, step, undo)
            undo.pop_all()

    def ramp(self, step: int) -> None:
        """Move the alpha of every blending seed on; costs nothing when there is none."""
        for slot, seed in self._blending:
            seed.alpha.fill_(slot.alpha_at(step))
            if slot.passed_at(step) == 1.0:
                slot.advance(SeedState.ACTIVE, step)
        self._blending = [pair for pair in self._blending if pair[0].state is SeedState.BLENDING]

    def end_embargoes(self, step: int, embargo_steps: int) -> None:
        """Make slots dormant again whose seed was removed at least `embargo_steps` ago."""
        for site in self.sites.values():
            for slot in site.slots:
                removed = slot.state in (SeedState.CULLED, SeedState.ROLLED_BACK)
                if removed and step - slot.since_step >= embargo_steps:
                    slot.advance(SeedState.DORMANT, step)

    def _apply_one(
        self,
        operation: Operation,
        decision: AdaptationDecision,
        kernels: Mapping[str, Kernel],
        step: int,
        undo: ExitStack,
    ) -> None:
        """Apply one operation; before each change, `undo` gets what takes it back."""
        undo.callback(self._slot(operation).keep())
        match operation:
            case Plant():
                self._plant(operation, decision, kernels[operation.kernel_id], step, undo)
            case Cull():
                self._cull(operation, step, undo)
            case Fossilize():
                self._fossilize(operation, step, undo)
            case Reweight():
                self._reweight(operation, step, undo)

    def _plant(
        self,
        plant: Plant,
        decision: AdaptationDecision,
        kernel: Kernel,
        step: int,
        undo: ExitStack,
    ) -> None:
        slot = self._slot(plant)
        seed = self._join(self.sites[plant.site], slot.index, kernel, undo)
        slot.advance(SeedState.BLENDING, step)
        slot.planted, slot.decision_id = plant, decision.decision_id
        undo.callback(self._blend_only, self._blending, len(self._blending))
        self._blending.append((slot, seed))

    def _join(self, site: Site, index: int, kernel: Kernel, undo: ExitStack | None = None) -> Seed:
        """Have a kernel run at a site, and be trained as its layer is."""
        reference = next(site.layer.parameters())
        seed = Seed(kernel).to(reference.device)
        STREAMS.adopt(seed)
        if undo is not None:
            undo.callback(site.keep())
        site.plant(index, seed)
        names = seed.named_parameters(prefix=site.path_of(index))
        self._membership.add(site.name, site.layer, names, undo)
        if self._synchronizer is not None:
            if undo is not None:
                undo.callback(self._synchronizer.keep())
            self._synchronizer.add(seed.parameters())
        return seed

    def _cull(self, cull: Cull, step: int, undo: ExitStack) -> None:
        self._take_out(self._slot(cull), SeedState.CULLED, step, undo)

    def _take_out(self, slot: Slot, to: SeedState, step: int, undo: ExitStack) -> None:
        slot.check(to)
        site = self.sites[slot.site]
        undo.callback(site.keep())
        self._forget(site.remove(slot.index), undo)
        undo.callback(self._blend_only, self._blending, len(self._blending))
        self._blending = [pair for pair in self._blending if pair[0] is not slot]
        slot.advance(to, step)

    def _blend_only(self, blending: list[tuple[Slot, Seed]], count: int) -> None:
        """Blend again what was blended: the first of a list to which others may have come."""
        del blending[count:]
        self._blending = blending

    def _fossilize(self, fossilize: Fossilize, step: int, undo: ExitStack) -> None:
        site, slot = self.sites[fossilize.site], self._slot(fossilize)
        try:
            if not self._membership.trains(site.layer.parameters(recurse=False)):
                raise MergeRefused(f"the optimizer does not train all of {site.name}")
            seed = merge(site, slot.index, undo)
        except MergeRefused as refusal:
            log.info("%s is kept beside its layer: %s", slot, refusal)
        else:
            self._forget(seed, undo)
            slot.merged_sha256 = seed.kernel.sha256
        slot.advance(SeedState.FOSSILIZED, step)

    def _reweight(self, change: Reweight, step: int, undo: ExitStack) -> None:
        slot = self._slot(change)
        slot.reweight(change, step)
        undo.callback(self._blend_only, self._blending, len(self._blending))
        self._blending.append((slot, self.sites[change.site].seed(slot.index)))

    def _forget(self, seed: Seed, undo: ExitStack) -> None:
        """Let no one train a seed any more that has left the model."""
        self._membership.remove(seed.parameters(), undo)
        if self._synchronizer is not None:
            undo.callback(self._synchronizer.keep())
            self._synchronizer.remove(seed.parameters())

    def _check_fit(self, plant: Plant, kernel: Kernel) -> None:
        site = self.sites[plant.site]
        if kernel.plan.signature != site.signature:
            raise PlanRefused(
                f"kernel {plant.kernel_id[:12]} is for a site of {kernel.plan.signature}; "
                f"{site.name} is one of {site.signature}"
            )
        try:
            self._membership.check(site.name, site.layer)
        except ParameterUntrained as error:
            raise PlanRefused(str(error)) from error

    def _check(self, operation: Operation) -> None:
        slot = self._slot(operation)
        try:
            slot.check(_LEADS_TO[type(operation)])
        except IllegalTransition as error:
            raise PlanRefused(str(error)) from error
        if isinstance(operation, Plant):
            return
        planted = slot.planted.kernel_id if slot.planted else None
        if planted != operation.kernel_id:
            raise PlanRefused(
                f"{slot} holds kernel {str(planted)[:12]}, not {operation.kernel_id[:12]}"
            )

    def _slot(self, operation: Operation) -> Slot:
        site = self.sites.get(operation.site)
        if site is None or operation.slot >= len(site.slots):
            raise PlanRefused(f"there is no seed {operation.site}/{operation.slot}")
        return site.slots[operation.slot]


_LEADS_TO: Mapping[type[Operation], SeedState] = {
    Plant: SeedState.LOADING,
    Cull: SeedState.CULLED,
    Fossilize: SeedState.FOSSILIZED,
    Reweight: SeedState.BLENDING,
}


def kernels_needed(decision: AdaptationDecision) -> list[str]:
    """The ids of the kernels that a decision plants."""
    return [plant.kernel_id for plant in _plants(decision)]


def _plants(decision: AdaptationDecision) -> list[Plant]:
    return [operation for operation in decision.operations if isinstance(operation, Plant)]
