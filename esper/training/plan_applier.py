"""Applying a plan: all operations of a decision between two steps, or none of them."""

import logging
from collections.abc import Callable, Iterable, Mapping

from esper.kernel import Kernel
from esper.seed import MergeRefused, Seed, Slot, merge
from esper.topics.models import (
    AdaptationDecision,
    Cull,
    Fossilize,
    Operation,
    Plant,
    Reweight,
    SeedState,
)
from esper.training.alpha_ramps import AlphaRamps
from esper.training.optimizer import ParameterUntrained
from esper.training.seed_parameters import SeedParameters
from esper.training.slot_table import PlanRefused, SlotTable
from esper.training.transaction import Transaction

log = logging.getLogger("esper")

CollectFailures = Callable[[str], str]
"""Takes the failure of this rank, "" for none; returns the failures of all ranks, "" for none."""


def only_own(own: str) -> str:
    """Return the failure of a process without other ranks."""
    return own


class PlanApplier:
    """Changes model, slots and optimizer as decisions ask, each decision as one transaction.

    `applied_plans` counts the decisions applied so far.
    """

    def __init__(self, table: SlotTable, parameters: SeedParameters, ramps: AlphaRamps) -> None:
        self._table = table
        self._parameters = parameters
        self._ramps = ramps
        self.applied_plans = 0

    def check(self, decision: AdaptationDecision, kernels: Mapping[str, Kernel]) -> None:
        """Raise PlanRefused unless all operations of a reserved decision can be applied now."""
        for operation in decision.operations:
            if isinstance(operation, Plant):
                self._check_fit(operation, kernels[operation.kernel_id])
            else:
                self._table.check(operation)

    def apply(
        self,
        decision: AdaptationDecision,
        kernels: Mapping[str, Kernel],
        step: int,
        collect_failures: CollectFailures = only_own,
    ) -> None:
        """Apply all operations of a reserved decision, with a fresh kernel for each plant.

        If an operation fails on any rank, every rank rolls all of them back.

        Raises:
            PlanRefused: the plan failed; everything is as before, bit for bit.
        """
        with Transaction() as transaction:
            try:
                self.check(decision, kernels)
                for operation in decision.operations:
                    self._apply_one(operation, decision, kernels, step, transaction)
                own = ""
            except PlanRefused as refusal:
                own = str(refusal)
            except Exception as error:
                log.exception("decision %s failed and is rolled back", decision.decision_id[:12])
                own = f"the plan failed and was rolled back: {type(error).__name__}: {error}"
            if failures := collect_failures(own):
                raise PlanRefused(failures)
            transaction.commit()
        self.applied_plans += 1

    def roll_back(self, slots: Iterable[Slot], step: int) -> None:
        """Remove the seeds of these slots after an incident: all of them, or none."""
        with Transaction() as transaction:
            for slot in slots:
                transaction.save(slot)
                self._take_out(slot, SeedState.ROLLED_BACK, step, transaction)
            transaction.commit()

    def _apply_one(
        self,
        operation: Operation,
        decision: AdaptationDecision,
        kernels: Mapping[str, Kernel],
        step: int,
        transaction: Transaction,
    ) -> None:
        transaction.save(self._table.slot(operation))
        match operation:
            case Plant():
                kernel = kernels[operation.kernel_id]
                self._plant(operation, decision, kernel, step, transaction)
            case Cull():
                self._cull(operation, step, transaction)
            case Fossilize():
                self._fossilize(operation, step, transaction)
            case Reweight():
                self._reweight(operation, step, transaction)

    def _plant(
        self,
        plant: Plant,
        decision: AdaptationDecision,
        kernel: Kernel,
        step: int,
        transaction: Transaction,
    ) -> None:
        slot = self._table.slot(plant)
        site = self._table.sites[plant.site]
        seed = self._parameters.plant(site, slot.index, kernel, transaction)
        slot.advance(SeedState.BLENDING, step)
        slot.planted, slot.decision_id = plant, decision.decision_id
        self._start_ramp(slot, seed, transaction)

    def _cull(self, cull: Cull, step: int, transaction: Transaction) -> None:
        self._take_out(self._table.slot(cull), SeedState.CULLED, step, transaction)

    def _fossilize(self, fossilize: Fossilize, step: int, transaction: Transaction) -> None:
        site, slot = self._table.sites[fossilize.site], self._table.slot(fossilize)
        try:
            if not self._parameters.trains_all_of(site):
                raise MergeRefused(f"the optimizer does not train all of {site.name}")
            seed = merge(site, slot.index, transaction)
        except MergeRefused as refusal:
            log.info("%s stays beside its layer: %s", slot, refusal)
        else:
            self._parameters.remove(seed, transaction)
            slot.merged_sha256 = seed.kernel.sha256
        slot.advance(SeedState.FOSSILIZED, step)

    def _reweight(self, change: Reweight, step: int, transaction: Transaction) -> None:
        slot = self._table.slot(change)
        slot.reweight(change, step)
        seed = self._table.sites[change.site].seed(slot.index)
        self._start_ramp(slot, seed, transaction)

    def _take_out(self, slot: Slot, to: SeedState, step: int, transaction: Transaction) -> None:
        slot.check(to)
        site = self._table.sites[slot.site]
        transaction.save(site)
        self._parameters.remove(site.remove(slot.index), transaction)
        transaction.save(self._ramps)
        self._ramps.stop(slot)
        slot.advance(to, step)

    def _start_ramp(self, slot: Slot, seed: Seed, transaction: Transaction) -> None:
        transaction.save(self._ramps)
        self._ramps.start(slot, seed)

    def _check_fit(self, plant: Plant, kernel: Kernel) -> None:
        site = self._table.sites[plant.site]
        if kernel.plan.signature != site.signature:
            raise PlanRefused(
                f"kernel {plant.kernel_id[:12]} is for a site of {kernel.plan.signature}, but "
                f"{site.name} is a site of {site.signature}; plant a kernel compiled for it"
            )
        try:
            self._parameters.check(site)
        except ParameterUntrained as error:
            raise PlanRefused(str(error)) from error
