"""The board on which strategies move: seeds in their seats, and arms to choose from."""

import math
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from esper.bandit import (
    NO_COSTS,
    TIE_BREAK,
    ArmChoice,
    Codes,
    Constraint,
    Costs,
    HistoryKey,
    SelectorInput,
    Situation,
    SlotId,
    constraint_codes,
    explain_constraint,
    features,
    uniform,
)
from esper.orchestrator.candidates import Arm
from esper.orchestrator.state import FULL_ALPHA, FoldState, Trial
from esper.orchestrator.trials import mean_contribution, warming_up
from esper.topics.models import (
    Candidate,
    Cull,
    Fossilize,
    Operation,
    Orchestration,
    Plant,
    Reweight,
    SeedCandidate,
    SeedReport,
)

ALPHA_TOLERANCE = 1e-6
"""Room for less alpha than this is none: sums of shares round."""


class View(NamedTuple):
    """A run as strategies see it; `after` and `beside` give the boards that a plan leads to.

    `occupied` are the seats that are not dormant, `resting` those that have been for too short.
    `shares` are the alphas of what is on trial where the run is orchestrated, empty elsewhere.
    """

    state: FoldState
    report: SeedReport
    situation: Situation
    occupied: frozenset[SlotId]
    resting: frozenset[SlotId]
    shares: Mapping[SlotId, float] = MappingProxyType({})

    def judged(self) -> Iterator[tuple[Trial, float | None]]:
        """Yield each trial that ended, with its mean contribution (None: not measurable)."""
        for trial in self.state.trials:
            if trial.judged:
                yield trial, mean_contribution(trial)

    def worth_keeping(self, contribution: float | None) -> bool:
        """Whether a mean contribution is as large as is asked of what is to stay."""
        least = self._least_contribution()
        return contribution is not None and least is not None and contribution >= least

    @property
    def least_share(self) -> float:
        """The share of the probe loss that is asked of what is to stay."""
        selection = self.state.run.selection
        if not selection.keep_first_share:
            return selection.keep_share
        return self.share(self._least_contribution()) or selection.keep_share

    def _least_contribution(self) -> float | None:
        """Return what is asked for; None where the probe loss is not known."""
        loss, selection = self.report.probe_loss, self.state.run.selection
        if loss is None:
            return None
        # A network also leans on what it could do without. What is worth its place gives much of
        # all that there was to learn, not only of the little that is left.
        first = abs(self.state.first_loss or 0.0)
        return max(selection.keep_share * abs(loss), selection.keep_first_share * first)

    def warming_up(self, trial: Trial) -> bool:
        """Whether a seed still learns, so that it cannot be compared with others."""
        return warming_up(trial, self.state.run.selection)

    @property
    def orchestration(self) -> Orchestration:
        """The rules of an orchestrated run."""
        orchestration = self.state.run.selection.orchestration
        assert orchestration is not None, f"run {self.state.run_id} pursues no course"
        return orchestration

    def share(self, contribution: float | None) -> float | None:
        """Return a contribution as a share of the probe loss; None where either is not known."""
        loss = self.report.probe_loss
        if contribution is None or loss is None:
            return None
        return contribution / max(abs(loss), 1e-12)

    @property
    def closed(self) -> frozenset[SlotId]:
        """The seats in which nothing may be planted."""
        return self.occupied | self.resting if self.resting else self.occupied

    def options(self) -> SelectorInput:
        """Return all there is to choose from."""
        state = self.state
        rows = None
        if state.model is not None:
            kernels = state.arms.arm_features.kernels
            rows = features(state.run.run_config.sites, self.report.gradients, kernels)
        return SelectorInput(
            arm_features=state.arms.arm_features,
            arms=state.arms.arm_stats,
            seats=state.run.seats,
            places=state.run.seat_places,
            slots=state.run.run_config.slots,
            seeds=state.seeds,
            trials=state.tracker.trials,
            closed=self.closed,
            features=rows,
            model=state.model,
        )

    def best(self) -> ArmChoice | None:
        """What to plant next, or None where nothing may be planted."""
        return self.state.run.selector.choose(self.options(), self.situation)

    def arm(self, choice: ArmChoice) -> Arm:
        """The arm that was chosen."""
        return self.state.arms.rows[choice.arm]

    def room(self, site: str) -> float:
        """The alpha that what is on trial at a site leaves to others, of the whole."""
        shares = [alpha for seat, alpha in self.shares.items() if seat.site == site]
        left = FULL_ALPHA - math.fsum(shares)
        return left if left > ALPHA_TOLERANCE else 0.0

    def plant(self, choice: ArmChoice, alpha: float = FULL_ALPHA) -> Plant:
        """The operation that plants what was chosen."""
        kernel = self.arm(choice).kernel
        return Plant(
            site=kernel.site,
            slot=choice.seat.slot,
            kernel_id=kernel.kernel_id,
            blueprint_id=kernel.blueprint_id,
            alpha=alpha,
            ramp_steps=self.state.run.run_config.report_interval_steps,
        )

    def reweight(self, trial: Trial, alpha: float) -> Reweight:
        """The operation that gives what is on trial another alpha."""
        return Reweight(
            site=trial.site,
            slot=trial.slot,
            kernel_id=trial.kernel_id,
            alpha=min(alpha, FULL_ALPHA),
            ramp_steps=self.orchestration.reweight_reports
            * self.state.run.run_config.report_interval_steps,
        )

    def of_new_categories(self) -> "View":
        """Return the board on which no category may be planted that is anywhere in the network."""
        categories = {category for _, category in self.situation.present}
        sites = self.state.run.run_config.slots
        present = frozenset((site, category) for site in sites for category in categories)
        return self._replace(situation=self.situation._replace(present=present))

    def without_kernel(self, kernel_id: str) -> "View":
        """Return the board on which a kernel may be planted nowhere: no plan plants one twice."""
        there = {(site, kernel_id) for site in self.state.run.run_config.slots}
        return self._replace(
            situation=self.situation._replace(culled=self.situation.culled | there)
        )

    def after(self, operations: tuple[Operation, ...]) -> "View":
        """Return the board as it will be once the operations are applied.

        A culled seat stays closed, for its embargo begins; its trial is over.
        """
        if not operations:
            return self
        planted = [op for op in operations if isinstance(op, Plant)]
        culled = [op for op in operations if isinstance(op, Cull)]
        ended = sum(isinstance(op, Cull | Fossilize) for op in operations)
        shares = (
            _shares_after(self.shares, operations) if self.state.strategy_state else self.shares
        )
        before = self.situation
        occupied = self.occupied | {SlotId(op.site, op.slot) for op in planted}
        situation = before._replace(
            on_trial=before.on_trial + len(planted) - ended,
            used=_together([before.used, *(self._costs(op.site, op.kernel_id) for op in planted)]),
            closed_sites=_closed_sites(self.state, occupied, self.resting, shares),
            present=before.present | {(op.site, self._category(op)) for op in planted},
            culled=before.culled | {(op.site, op.kernel_id) for op in culled},
        )
        return self._replace(situation=situation, occupied=occupied, shares=shares)

    def beside(self, operations: tuple[Operation, ...]) -> "View":
        """Return the board for a plan that must be right whether or not these are applied.

        The trainer may refuse them, so the places on trial that they would free still count.
        """
        after = self.after(operations)
        on_trial = max(self.situation.on_trial, after.situation.on_trial)
        return after._replace(situation=after.situation._replace(on_trial=on_trial))

    def blueprint_of(self, trial: Trial) -> str:
        """The name of what is on trial; a shortened kernel id where it is no longer offered."""
        arm = self.state.arms.on(trial.site, trial.kernel_id)
        return arm.kernel.blueprint_id if arm else trial.kernel_id[:12]

    def codes(self) -> Codes:
        """Return, for each arm in order, the number of what rules it out now, or 0."""
        arm_features = self.state.arms.arm_features
        everything = slice(0, len(arm_features.kernels))
        return constraint_codes(
            self.state.run.selection.limits, self.situation, arm_features, everything
        )

    def exclusions(self) -> list[tuple[Constraint, str | None]]:
        """Return, for each arm in order, what rules it out now, also in words; None: nothing."""
        limits, arm_features = self.state.run.selection.limits, self.state.arms.arm_features
        return [
            (
                Constraint(code),
                explain_constraint(Constraint(code), limits, self.situation, arm_features, place)
                if code
                else None,
            )
            for place, code in enumerate(self.codes().tolist())
        ]

    def candidates(self, operations: tuple[Operation, ...]) -> tuple[Candidate, ...]:
        """All arms as the decision for these operations records them, the best first."""
        run = self.state.run
        if not self.state.arms:
            return ()
        scores = run.selector.arm_scores(self.options(), self.report.seq).tolist()

        chosen = [(op.site, op.kernel_id) for op in operations if isinstance(op, Plant)]
        first = {self.state.arms.arm_features.by_kernel[name] for name in chosen}

        def rank(place: int) -> tuple[float, float, int]:
            if run.selects:
                return -scores[place], float(place not in first), place
            chance = uniform(run.run_config.seed, self.report.seq, TIE_BREAK, place)
            return -scores[place], chance, place

        exclusions = self.exclusions()
        return tuple(
            self._candidate(place, scores[place], *exclusions[place])
            for place in sorted(range(len(scores)), key=rank)
        )

    def _candidate(
        self, place: int, score: float, constraint: Constraint, excluded: str | None
    ) -> Candidate:
        arm, run = self.state.arms.rows[place], self.state.run
        prior = self.state.arms.arm_stats.priors.get(place)
        return Candidate(
            site=arm.kernel.site,
            blueprint_id=arm.kernel.blueprint_id,
            kernel_id=arm.kernel.kernel_id,
            pulls=arm.pulls,
            mean=arm.mean if arm.pulls else None,
            score=None if score == np.inf else score,
            excluded=excluded,
            constraint=constraint.label if run.selects and constraint else None,
            prior_weight=prior.weight if prior else None,
            prior_mean=prior.mean if prior else None,
        )

    def seed_candidates(self) -> tuple[SeedCandidate, ...]:
        """All seats as the decision records them, the best first; none without attention."""
        run = self.state.run
        if run.attention is None:
            return ()
        scores = run.selector.seat_scores(self.options(), self.report.seq).tolist()
        order = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
        return tuple(self._seed_candidate(run.seats[place], scores[place]) for place in order)

    def _seed_candidate(self, seat: SlotId, score: float) -> SeedCandidate:
        history = self.state.tracker.of(HistoryKey(*seat))
        return SeedCandidate(
            site=seat.site,
            slot=seat.slot,
            pulls=history.pulls if history else 0,
            mean=history.mean if history else None,
            score=None if score == np.inf else score,
            free=seat not in self.closed and not self.situation.everywhere,
        )

    def _category(self, operation: Operation) -> str:
        arm = self.state.arms.on(operation.site, operation.kernel_id)
        return arm.kernel.category if arm else ""

    def _costs(self, site: str, kernel_id: str) -> Costs:
        return costs_of(self.state.arms.on(site, kernel_id))


def build_view(state: FoldState, report: SeedReport) -> View:
    """Return the board after a report that was learnt from."""
    limits = state.run.selection.limits
    seats, present = [], []
    for seed in report.seeds:
        seats.append(SlotId(seed.site, seed.slot))
        # By blueprint, not by kernel: what was planted may be superseded by a newer kernel.
        if seed.blueprint_id is not None:
            present.append((seed.site, state.arms.category(seed.site, seed.blueprint_id)))
    occupied = frozenset(seats)
    resting = frozenset(
        [
            seat
            for seat, seq in state.occupied.items()
            if report.seq - seq < limits.dormant_reports and seat not in occupied
        ]
    )
    shares: dict[SlotId, float] = {}
    if state.strategy_state is not None:
        shares = {trial.seat: trial.alpha or 0.0 for trial in state.trials}
    opened_lately = report.seq + 1 < limits.dormant_reports
    situation = Situation(
        seq=report.seq,
        on_trial=len(state.trials),
        used=_used(state, report) if limits.budgets else NO_COSTS,
        everywhere=Constraint.DORMANT_TIME if opened_lately else Constraint.NONE,
        closed_sites=_closed_sites(state, occupied, resting, shares),
        present=frozenset(present),
        rotating=_rotating(state) if limits.rotation else frozenset(),
    )
    return View(state, report, situation, occupied, resting, shares)


def _shares_after(
    shares: Mapping[SlotId, float], operations: Iterable[Operation]
) -> Mapping[SlotId, float]:
    after = dict(shares)
    for operation in operations:
        seat = SlotId(operation.site, operation.slot)
        if isinstance(operation, Plant | Reweight):
            after[seat] = operation.alpha
        else:
            after.pop(seat, None)
    return after


def _closed_sites(
    state: FoldState,
    occupied: frozenset[SlotId],
    resting: frozenset[SlotId],
    shares: Mapping[SlotId, float],
) -> dict[str, Constraint]:
    """Return why nothing can be planted: for each site of which every seat is closed, or the whole
    alpha given away."""
    slots = state.run.run_config.slots
    left: dict[str, int] = {}
    given: dict[str, list[float]] = {}
    for seat, alpha in shares.items():
        given.setdefault(seat.site, []).append(alpha)
    closed = {
        site: Constraint.NO_ROOM
        for site, alphas in given.items()
        if FULL_ALPHA - math.fsum(alphas) <= ALPHA_TOLERANCE
    }
    for constraint, seats in (
        (Constraint.NO_SEED_FREE, occupied),
        (Constraint.DORMANT_TIME, resting),
    ):
        for site, _ in seats:
            left[site] = left.get(site, slots.get(site, 0)) - 1
            if left[site] == 0:
                closed[site] = constraint
    return closed


def _rotating(state: FoldState) -> frozenset[tuple[str, str]]:
    """Return the categories that rest at their sites, as long as another one is on offer there."""
    rotation = state.run.selection.limits.rotation
    pairs: set[tuple[str, str]] = set()
    for site, planted in state.rotation.items():
        rows = state.arms.rows[state.arms.arm_features.of_site(site)]
        others = len({row.kernel.category for row in rows}) - 1
        resting = planted[-min(rotation, others) :] if others > 0 else ()
        pairs.update((site, category) for category in resting)
    return frozenset(pairs)


def _used(state: FoldState, report: SeedReport) -> Costs:
    return _together(
        costs_of(state.arms.at(seed.site, seed.blueprint_id), seed.params)
        for seed in report.seeds
        if seed.blueprint_id is not None
    )


def costs_of(arm: Arm | None, params: int = 0) -> Costs:
    """What a planted kernel costs: its parameters where it is offered no more, and no ratios where
    none were measured."""
    if arm is None:
        return Costs(params)
    cost = arm.kernel.cost
    if cost is None:
        return Costs(arm.kernel.params)
    return Costs(arm.kernel.params, cost.memory_ratio or 0.0, cost.latency_ratio or 0.0)


def _together(costs: Iterable[Costs]) -> Costs:
    params, memory, latency = zip(*costs, strict=True) if (costs := tuple(costs)) else ((), (), ())
    return Costs(sum(params), math.fsum(memory), math.fsum(latency))
