"""The slots of all sites: what each holds, and which operations are possible there."""

from collections.abc import Iterable, Mapping

from pydantic import BaseModel, ConfigDict

from esper.errors import EsperError
from esper.seed import IllegalTransition, Site, Slot
from esper.topics.models import (
    AdaptationDecision,
    Cull,
    Fossilize,
    Operation,
    Plant,
    Reweight,
    SeedState,
)


class PlanRefused(EsperError, ValueError):
    """A plan that cannot be applied as a whole; no operation of it was applied."""


class SlotSnapshot(BaseModel):
    """The state of a slot that is not dormant, as a checkpoint stores it."""

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


_NEXT_STATE: Mapping[type[Operation], SeedState] = {
    Plant: SeedState.LOADING,
    Cull: SeedState.CULLED,
    Fossilize: SeedState.FOSSILIZED,
    Reweight: SeedState.BLENDING,
}


class SlotTable:
    """The slots of a model's sites, by site name and slot index."""

    def __init__(self, sites: Mapping[str, Site]) -> None:
        self.sites = sites

    def slot(self, operation: Operation) -> Slot:
        """Return the slot that an operation names.

        Raises:
            PlanRefused: the run has no such slot.
        """
        site = self.sites.get(operation.site)
        if site is None or operation.slot >= len(site.slots):
            raise PlanRefused(
                f"there is no slot {operation.site}/{operation.slot} in this run; "
                "name one of the sites and slots of its run config"
            )
        return site.slots[operation.slot]

    def reserve(self, decision: AdaptationDecision, step: int) -> None:
        """Set the slots that a decision plants in to LOADING while its kernels are built.

        Raises:
            PlanRefused: an operation is not possible; all slots are unchanged.
        """
        slots = {(operation.site, operation.slot) for operation in decision.operations}
        if len(slots) != len(decision.operations):
            raise PlanRefused("two operations of the plan name one slot; decide them one by one")
        if len(set(kernels_needed(decision))) != len(kernels_needed(decision)):
            # They would share one set of weights, which the first cull would stop training.
            raise PlanRefused("the plan plants one kernel twice; plant it in two decisions")
        for operation in decision.operations:
            self.check(operation)
        for plant in decision.plants:
            self.slot(plant).advance(SeedState.LOADING, step)

    def release(self, decision: AdaptationDecision, step: int) -> None:
        """Undo `reserve`."""
        for plant in decision.plants:
            self.slot(plant).advance(SeedState.DORMANT, step)

    def check(self, operation: Operation) -> None:
        """Raise PlanRefused unless the state of its slot allows an operation.

        A `Plant` needs a slot that can start loading; the others need the kernel that they name.
        """
        slot = self.slot(operation)
        try:
            slot.check(_NEXT_STATE[type(operation)])
        except IllegalTransition as error:
            raise PlanRefused(str(error)) from error
        if isinstance(operation, Plant):
            return
        planted = slot.planted.kernel_id if slot.planted else None
        if planted != operation.kernel_id:
            raise PlanRefused(
                f"{slot} holds kernel {str(planted)[:12]}, not {operation.kernel_id[:12]}"
            )

    def end_embargoes(self, step: int, embargo_steps: int) -> None:
        """Make slots DORMANT again whose seed was removed at least `embargo_steps` steps ago."""
        for site in self.sites.values():
            for slot in site.slots:
                removed = slot.state in (SeedState.CULLED, SeedState.ROLLED_BACK)
                if removed and step - slot.since_step >= embargo_steps:
                    slot.advance(SeedState.DORMANT, step)

    def snapshot(self) -> tuple[SlotSnapshot, ...]:
        """Return the slots that are not dormant.

        LOADING slots are left out: their decisions are read again after a checkpoint.
        """
        return tuple(
            SlotSnapshot(
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
            for site in self.sites.values()
            for slot in site.slots
            if slot.state not in (SeedState.DORMANT, SeedState.LOADING)
        )

    def restore(self, snapshots: Iterable[SlotSnapshot]) -> None:
        """Set fresh slots to the states in `snapshots`."""
        for snapshot in snapshots:
            slot = self.sites[snapshot.site].slots[snapshot.slot]
            slot.state, slot.since_step = snapshot.state, snapshot.since_step
            slot.planted, slot.decision_id = snapshot.planted, snapshot.decision_id
            slot.merged_sha256 = snapshot.merged_sha256
            slot.reweighted, slot.alpha_before = snapshot.reweighted, snapshot.alpha_before


def kernels_needed(decision: AdaptationDecision) -> list[str]:
    """Return the ids of the kernels that a decision plants."""
    return [plant.kernel_id for plant in decision.plants]
