"""The seeds of a model in training: planted, ramped, and removed as decisions ask."""

from collections.abc import Iterable, Mapping

from torch.optim import Optimizer

from esper.kernel import Kernel
from esper.seed import GradientSynchronizer, Seed, Site, Slot
from esper.topics.models import AdaptationDecision, SeedState
from esper.training.alpha_ramps import AlphaRamps
from esper.training.gradients import GradientNorms
from esper.training.optimizer import OptimizerMembership
from esper.training.plan_applier import CollectFailures, PlanApplier, only_own
from esper.training.seed_parameters import SeedParameters
from esper.training.slot_table import PlanRefused, SlotSnapshot, SlotTable, kernels_needed
from esper.training.transaction import Transaction

__all__ = ["PlanRefused", "SeedManager", "SlotSnapshot", "kernels_needed"]


class SeedManager:
    """The sites of a model, their slots and seeds, and the optimizer that trains the seeds.

    Over several ranks `synchronizer` averages the gradients of the seeds.
    """

    def __init__(
        self,
        sites: Mapping[str, Site],
        membership: OptimizerMembership,
        synchronizer: GradientSynchronizer | None = None,
    ) -> None:
        """Raise ParameterUntrained if the optimizer does not train the layer of a site."""
        self.sites = sites
        self._table = SlotTable(sites)
        self._parameters = SeedParameters(sites, membership, synchronizer)
        self._ramps = AlphaRamps()
        self._applier = PlanApplier(self._table, self._parameters, self._ramps)

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer that trains the seeds."""
        return self._parameters.optimizer

    @property
    def applied_plans(self) -> int:
        """The number of decisions applied so far."""
        return self._applier.applied_plans

    def set_optimizer(self, membership: OptimizerMembership) -> None:
        """Train all seeds, present and future, with another optimizer.

        Raises:
            ParameterUntrained: the optimizer does not train the layer of a site; nothing changed.
        """
        self._parameters.set_optimizer(membership)

    def measure_gradients(self, norms: GradientNorms) -> None:
        """Measure the gradients of the sites' layers in the optimizer's next step."""
        norms.measure_next_step(self._parameters.before_next_step)

    def optimizer_stepped(self) -> bool:
        """Return whether the optimizer has taken a step since the last call."""
        return self._parameters.optimizer_stepped()

    def close(self) -> None:
        """Remove all hooks from the optimizer and from the model's parameters."""
        self._parameters.close()

    def planted(self) -> list[tuple[Slot, Seed]]:
        """Return the planted seeds with their slots, in the order of the optimizer's parameters."""
        pairs = [pair for site in self.sites.values() for pair in site.seeds()]
        return sorted(pairs, key=lambda pair: self._parameters.position(pair[1]))

    def snapshot(self) -> tuple[SlotSnapshot, ...]:
        """Return the slots that are neither dormant nor loading."""
        return self._table.snapshot()

    def restore(
        self, snapshots: Iterable[SlotSnapshot], kernels: Mapping[tuple[str, int], Kernel]
    ) -> None:
        """Fill fresh slots from a checkpoint.

        `kernels` are by (site, slot), in the order of the optimizer's parameters.
        """
        self._table.restore(snapshots)
        with Transaction() as transaction:
            for (name, index), kernel in kernels.items():
                site = self.sites[name]
                seed = self._parameters.plant(site, index, kernel, transaction)
                if site.slots[index].state is SeedState.BLENDING:
                    self._ramps.start(site.slots[index], seed)
            transaction.commit()

    def reserve(self, decision: AdaptationDecision, step: int) -> None:
        """Set the slots that a decision plants in to LOADING while its kernels are built.

        Raises:
            PlanRefused: an operation is not possible; all slots are unchanged.
        """
        self._table.reserve(decision, step)

    def release(self, decision: AdaptationDecision, step: int) -> None:
        """Undo `reserve`, for a decision whose kernels could not be loaded."""
        self._table.release(decision, step)

    def check(self, decision: AdaptationDecision, kernels: Mapping[str, Kernel]) -> None:
        """Raise PlanRefused unless all operations of a reserved decision can be applied now."""
        self._applier.check(decision, kernels)

    def apply(
        self,
        decision: AdaptationDecision,
        kernels: Mapping[str, Kernel],
        step: int,
        collect_failures: CollectFailures = only_own,
    ) -> None:
        """Apply all operations of a reserved decision, with a fresh kernel for each plant.

        Raises:
            PlanRefused: the plan failed on some rank; everything is as before, bit for bit.
        """
        self._applier.apply(decision, kernels, step, collect_failures)

    def roll_back(self, slots: Iterable[Slot], step: int) -> None:
        """Remove the seeds of these slots after an incident: all of them, or none."""
        self._applier.roll_back(slots, step)

    def ramp(self, step: int) -> None:
        """Set the alpha of every blending seed for `step`."""
        self._ramps.advance(step)

    def end_embargoes(self, step: int, embargo_steps: int) -> None:
        """Make slots DORMANT again whose seed was removed at least `embargo_steps` steps ago."""
        self._table.end_embargoes(step, embargo_steps)
