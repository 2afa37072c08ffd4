"""The view that strategies decide on: a run at one report, and the plans they return."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Self

from esper.bandit import (
    NO_COSTS,
    ArmChoice,
    Codes,
    Constraint,
    Costs,
    SelectorInput,
    Situation,
    SlotId,
    constraint_codes,
    explain_constraint,
    features,
)
from esper.orchestrator.audition_round import is_unanswered, passed
from esper.orchestrator.candidates import Arm
from esper.orchestrator.state import FULL_ALPHA, FoldState, Trial
from esper.topics.models import (
    Audition,
    Cull,
    Fossilize,
    Operation,
    Orchestration,
    Plant,
    Reweight,
    SeedReport,
)

ALPHA_TOLERANCE = 1e-6
"""Less alpha than this counts as zero, because sums of alphas round."""

Clause = tuple[str, str]
"""A site, and a part of a plan's reason about that site."""


@dataclass(frozen=True, slots=True)
class DecisionPlan:
    """The operations of one decision and the reason for them.

    The trainer applies all operations at one step, or none. `request_id` names the user's request
    that the plan answers. `auditions` are of kernels to try away from the training path.
    """

    operations: tuple[Operation, ...]
    reason: str
    request_id: str | None = None
    auditions: tuple[Audition, ...] = ()

    @classmethod
    def of(
        cls, strategy: str, operations: Sequence[Operation], clauses: Sequence[Clause]
    ) -> Self | None:
        """Return the plan of a strategy; None without operations.

        The reason groups the clauses by site: `conv2 · REPLACE: clause, clause; fc1: clause`.
        """
        if not operations:
            return None
        by_site: dict[str, list[str]] = {}
        for site, text in clauses:
            by_site.setdefault(site, []).append(text)
        parts, label = [], f" · {strategy.upper()}"
        for site, texts in by_site.items():
            parts.append(f"{site}{label}: {', '.join(texts)}")
            label = ""
        return cls(tuple(operations), "; ".join(parts))


class View(NamedTuple):
    """A run as strategies see it; `after` and `beside` return the view after some operations.

    `occupied` are the slots that are not dormant, `resting` the slots that became dormant too
    recently. `alphas` are the alphas of the seeds on trial in orchestrated runs, empty in others.
    """

    state: FoldState
    report: SeedReport
    situation: Situation
    occupied: frozenset[SlotId]
    resting: frozenset[SlotId]
    alphas: Mapping[SlotId, float] = MappingProxyType({})

    @property
    def orchestration(self) -> Orchestration:
        """The orchestration settings of an orchestrated run."""
        orchestration = self.state.run.selection.orchestration
        assert orchestration is not None, f"run {self.state.run_id} has no orchestration"
        return orchestration

    def judged(self) -> Iterator[tuple[Trial, float | None]]:
        """Yield each judged trial with its mean contribution (None: not measurable)."""
        for trial in self.state.trials:
            if trial.judged:
                yield trial, trial.mean_contribution()

    def worth_keeping(self, contribution: float | None) -> bool:
        """Return whether a mean contribution reaches the threshold for keeping a seed."""
        least = self._least_contribution()
        return contribution is not None and least is not None and contribution >= least

    @property
    def least_share(self) -> float:
        """The threshold for keeping a seed, as a share of the probe loss."""
        selection = self.state.run.selection
        if not selection.keep_first_share:
            return selection.keep_share
        return self.share(self._least_contribution()) or selection.keep_share

    def _least_contribution(self) -> float | None:
        """Return the threshold for keeping a seed; None where the probe loss is unknown."""
        loss, selection = self.report.probe_loss, self.state.run.selection
        if loss is None:
            return None
        # A network also relies on seeds that it could do without. A seed must give a share of the
        # loss at the start of the run, not only of the little loss that remains.
        first = abs(self.state.first_loss or 0.0)
        return max(selection.keep_share * abs(loss), selection.keep_first_share * first)

    def warming_up(self, trial: Trial) -> bool:
        """Return whether a seed is in its warm-up, so that it is not compared with others."""
        return trial.warming_up(self.state.run.selection)

    def share(self, contribution: float | None) -> float | None:
        """Return a contribution as a share of the probe loss; None where either is unknown."""
        loss = self.report.probe_loss
        if contribution is None or loss is None:
            return None
        return contribution / max(abs(loss), 1e-12)

    @property
    def closed(self) -> frozenset[SlotId]:
        """The slots in which no kernel may be planted."""
        return self.occupied | self.resting if self.resting else self.occupied

    def selector_input(self) -> SelectorInput:
        """Return the arms, slots and statistics that the selector chooses from."""
        state = self.state
        rows = None
        if state.model is not None:
            kernels = state.arms.arm_features.kernels
            rows = features(state.run.run_config.sites, self.report.gradients, kernels)
        return SelectorInput(
            arm_features=state.arms.arm_features,
            arm_stats=state.arms.arm_stats,
            slot_ids=state.run.slot_ids,
            slot_index=state.run.slot_index,
            slots=state.run.run_config.slots,
            slot_stats=state.slot_stats,
            trials=state.tracker.trials,
            closed=self.closed,
            features=rows,
            model=state.model,
        )

    def best(self) -> ArmChoice | None:
        """Return the arm and slot to plant next; None where constraints rule out every arm."""
        return self.state.run.selector.choose(self.selector_input(), self.situation)

    def arm(self, choice: ArmChoice) -> Arm:
        """Return the chosen arm."""
        return self.state.arms.rows[choice.arm]

    def alpha_left(self, site: str) -> float:
        """Return the alpha that the seeds on trial at a site leave of `FULL_ALPHA`."""
        alphas = [alpha for slot_id, alpha in self.alphas.items() if slot_id.site == site]
        left = FULL_ALPHA - math.fsum(alphas)
        return left if left > ALPHA_TOLERANCE else 0.0

    def plant(self, choice: ArmChoice, alpha: float = FULL_ALPHA) -> Plant:
        """Return the operation that plants the chosen arm."""
        kernel = self.arm(choice).kernel
        return Plant(
            site=kernel.site,
            slot=choice.slot_id.slot,
            kernel_id=kernel.kernel_id,
            blueprint_id=kernel.blueprint_id,
            alpha=alpha,
            ramp_steps=self.state.run.run_config.report_interval_steps,
            trained_sha256=self._trained(kernel.site, kernel.kernel_id),
        )

    def reweight(self, trial: Trial, alpha: float) -> Reweight:
        """Return the operation that changes the alpha of a seed on trial."""
        return Reweight(
            site=trial.site,
            slot=trial.slot,
            kernel_id=trial.kernel_id,
            alpha=min(alpha, FULL_ALPHA),
            ramp_steps=self.orchestration.reweight_reports
            * self.state.run.run_config.report_interval_steps,
        )

    def of_new_categories(self) -> "View":
        """Return the view that rules out every category present anywhere in the network."""
        categories = {category for _, category in self.situation.present}
        sites = self.state.run.run_config.slots
        present = frozenset((site, category) for site in sites for category in categories)
        return self._replace(situation=self.situation._replace(present=present))

    def without_kernel(self, kernel_id: str) -> "View":
        """Return the view that rules out a kernel at every site; no plan plants a kernel twice."""
        at_all_sites = {(site, kernel_id) for site in self.state.run.run_config.slots}
        return self._replace(
            situation=self.situation._replace(culled=self.situation.culled | at_all_sites)
        )

    def after(self, operations: tuple[Operation, ...]) -> "View":
        """Return the view after the trainer has applied the operations.

        A culled slot stays closed, because its embargo begins; its trial is over.
        """
        if not operations:
            return self
        planted = [op for op in operations if isinstance(op, Plant)]
        culled = [op for op in operations if isinstance(op, Cull)]
        ended = sum(isinstance(op, Cull | Fossilize) for op in operations)
        alphas = (
            _alphas_after(self.alphas, operations) if self.state.strategy_state else self.alphas
        )
        before = self.situation
        occupied = self.occupied | {SlotId(op.site, op.slot) for op in planted}
        situation = before._replace(
            on_trial=before.on_trial + len(planted) - ended,
            used=_sum([before.used, *(self._costs(op.site, op.kernel_id) for op in planted)]),
            closed_sites=_closed_sites(self.state, occupied, self.resting, alphas),
            present=before.present | {(op.site, self._category(op)) for op in planted},
            culled=before.culled | {(op.site, op.kernel_id) for op in culled},
        )
        return self._replace(situation=situation, occupied=occupied, alphas=alphas)

    def beside(self, operations: tuple[Operation, ...]) -> "View":
        """Return the view for a plan that must hold whether or not the operations are applied.

        The trainer may refuse them, so trials that they would end still count as on trial.
        """
        after = self.after(operations)
        on_trial = max(self.situation.on_trial, after.situation.on_trial)
        return after._replace(situation=after.situation._replace(on_trial=on_trial))

    def blueprint_of(self, trial: Trial) -> str:
        """Return the blueprint id of a seed; the kernel id's first 12 characters if unknown."""
        arm = self.state.arms.on(trial.site, trial.kernel_id)
        return arm.kernel.blueprint_id if arm else trial.kernel_id[:12]

    def codes(self) -> Codes:
        """Return, for each arm in order, the number of the constraint that rules it out, or 0."""
        arm_features = self.state.arms.arm_features
        everything = slice(0, len(arm_features.kernels))
        return constraint_codes(
            self.state.run.selection.limits, self.situation, arm_features, everything
        )

    def exclusions(self) -> list[tuple[Constraint, str | None]]:
        """Return, for each arm in order, its constraint and the explanation (or None)."""
        limits, arm_features = self.state.run.selection.limits, self.state.arms.arm_features
        return [
            (
                Constraint(code),
                explain_constraint(Constraint(code), limits, self.situation, arm_features, index)
                if code
                else None,
            )
            for index, code in enumerate(self.codes().tolist())
        ]

    def _trained(self, site: str, kernel_id: str) -> str | None:
        """Return the artifact of the weights that an audition trained; None without one."""
        round_ = self.state.audition_round
        result = None if round_ is None else round_.of(site, kernel_id)
        return None if result is None else result.trained_sha256

    def _category(self, operation: Operation) -> str:
        arm = self.state.arms.on(operation.site, operation.kernel_id)
        return arm.kernel.category if arm else ""

    def _costs(self, site: str, kernel_id: str) -> Costs:
        return costs_of(self.state.arms.on(site, kernel_id))


def build_view(state: FoldState, report: SeedReport) -> View:
    """Return the view of a run whose state includes the report."""
    limits = state.run.selection.limits
    slot_ids, present = [], []
    for seed in report.seeds:
        slot_ids.append(SlotId(seed.site, seed.slot))
        # By blueprint, not by kernel: what was planted may be superseded by a newer kernel.
        if seed.blueprint_id is not None:
            present.append((seed.site, state.arms.category(seed.site, seed.blueprint_id)))
    occupied = frozenset(slot_ids)
    resting = frozenset(
        [
            slot_id
            for slot_id, seq in state.occupied.items()
            if report.seq - seq < limits.dormant_reports and slot_id not in occupied
        ]
    )
    alphas: dict[SlotId, float] = {}
    if state.strategy_state is not None:
        alphas = {trial.slot_id: trial.alpha or 0.0 for trial in state.trials}
    just_started = report.seq + 1 < limits.dormant_reports
    situation = Situation(
        seq=report.seq,
        on_trial=len(state.trials),
        used=_used(state, report) if limits.has_budget else NO_COSTS,
        everywhere=Constraint.DORMANT_TIME if just_started else Constraint.NONE,
        closed_sites=_closed_sites(state, occupied, resting, alphas),
        present=frozenset(present),
        rotating=_rotating(state) if limits.rotation else frozenset(),
        auditioned=_auditioned(state),
    )
    return View(state, report, situation, occupied, resting, alphas)


def _alphas_after(
    alphas: Mapping[SlotId, float], operations: Iterable[Operation]
) -> Mapping[SlotId, float]:
    after = dict(alphas)
    for operation in operations:
        slot_id = SlotId(operation.site, operation.slot)
        if isinstance(operation, Plant | Reweight):
            after[slot_id] = operation.alpha
        else:
            after.pop(slot_id, None)
    return after


def _closed_sites(
    state: FoldState,
    occupied: frozenset[SlotId],
    resting: frozenset[SlotId],
    alphas: Mapping[SlotId, float],
) -> dict[str, Constraint]:
    """Return the constraint of each site where every slot is closed or no alpha is left."""
    slots = state.run.run_config.slots
    left: dict[str, int] = {}
    given: dict[str, list[float]] = {}
    for slot_id, alpha in alphas.items():
        given.setdefault(slot_id.site, []).append(alpha)
    closed = {
        site: Constraint.NO_ROOM
        for site, site_alphas in given.items()
        if FULL_ALPHA - math.fsum(site_alphas) <= ALPHA_TOLERANCE
    }
    for constraint, slot_ids in (
        (Constraint.NO_SEED_FREE, occupied),
        (Constraint.DORMANT_TIME, resting),
    ):
        for site, _ in slot_ids:
            left[site] = left.get(site, slots.get(site, 0)) - 1
            if left[site] == 0:
                closed[site] = constraint
    return closed


def _auditioned(state: FoldState) -> frozenset[tuple[str, str]] | None:
    """Return the kernel that the auditions would plant next.

    None in runs without auditions, and where no worker answers: any kernel may be tried then.
    """
    settings = state.run.selection.auditions
    if settings is None or state.audition_round is None:
        return None
    if is_unanswered(state.audition_round, settings, state.last_seq):
        return None
    ranked = passed(state.audition_round, settings, state.arms, state.last_seq)
    return frozenset(one.name for one in ranked[:1])


def _rotating(state: FoldState) -> frozenset[tuple[str, str]]:
    """Return the (site, category) that rotation rules out, if the site has another category."""
    rotation = state.run.selection.limits.rotation
    pairs: set[tuple[str, str]] = set()
    for site, planted in state.rotation.items():
        rows = state.arms.rows[state.arms.arm_features.of_site(site)]
        others = len({row.kernel.category for row in rows}) - 1
        resting = planted[-min(rotation, others) :] if others > 0 else ()
        pairs.update((site, category) for category in resting)
    return frozenset(pairs)


def _used(state: FoldState, report: SeedReport) -> Costs:
    return _sum(
        costs_of(state.arms.at(seed.site, seed.blueprint_id), seed.params)
        for seed in report.seeds
        if seed.blueprint_id is not None
    )


def costs_of(arm: Arm | None, params: int = 0) -> Costs:
    """Return the costs of a planted kernel; `params` alone where its arm is unknown.

    A ratio that was not measured counts as 0.
    """
    if arm is None:
        return Costs(params)
    cost = arm.kernel.cost
    if cost is None:
        return Costs(arm.kernel.params)
    return Costs(arm.kernel.params, cost.memory_ratio or 0.0, cost.latency_ratio or 0.0)


def _sum(costs: Iterable[Costs]) -> Costs:
    params, memory, latency = zip(*costs, strict=True) if (costs := tuple(costs)) else ((), (), ())
    return Costs(sum(params), math.fsum(memory), math.fsum(latency))
