"""The board on which strategies move: seeds in their slots, arms in the order of their scores."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from esper.bandit import Policy, uniform
from esper.orchestrator.learn import mean_contribution
from esper.orchestrator.rules import Rules
from esper.orchestrator.state import Arm, FoldState, Trial
from topics.models import Candidate, Cull, Operation, Plant, SeedReport

TIE_BREAK = "tie-break"


@dataclass(frozen=True, slots=True)
class RankedArm:
    """An arm with its score; None is an infinite score."""

    arm: Arm
    score: float | None


@dataclass(frozen=True, slots=True)
class Board:
    """A run as strategies see it; `after` and `beside` give the boards that a plan leads to.

    `occupied` holds (site, slot) of every seed that is not dormant, `present` (site, category) of
    every kernel planted or kept, `culled` (site, kernel_id) of those on their way out.
    """

    state: FoldState
    report: SeedReport
    rules: Rules
    ranking: tuple[RankedArm, ...]
    occupied: frozenset[tuple[str, int]]
    present: frozenset[tuple[str, str]]
    culled: frozenset[tuple[str, str]]
    on_trial: int

    def judged(self) -> Iterator[tuple[Trial, float | None]]:
        """Yield each trial that ended, with its mean contribution (None: not measurable)."""
        for trial in self.state.trials:
            if trial.judged:
                yield trial, mean_contribution(trial)

    def worth_keeping(self, contribution: float | None) -> bool:
        """Whether a mean contribution reaches the share of the probe loss that rules ask for."""
        loss = self.report.probe_loss
        if contribution is None or loss is None:
            return False
        return contribution >= self.rules.keep_share * abs(loss)

    def arm_on(self, site: str, kernel_id: str) -> Arm | None:
        """The arm that a planted kernel belongs to, if it is still offered."""
        for ranked in self.ranking:
            if ranked.arm.name == (site, kernel_id):
                return ranked.arm
        return None

    def best(self) -> RankedArm | None:
        """The arm to plant next, or None where none may be planted."""
        return next((ranked for ranked in self.ranking if not self.exclusion(ranked.arm)), None)

    def exclusion(self, arm: Arm) -> str | None:
        """Why an arm may not be planted now, in words; None where it may."""
        kernel = arm.kernel
        if self.on_trial >= self.rules.max_on_trial:
            return f"{self.on_trial} seeds are on trial, which is the limit"
        if arm.name in self.culled:
            return "it is being culled"
        if arm.embargo_until_seq > self.report.seq:
            return f"embargo until report {arm.embargo_until_seq}"
        if self._free_slot(kernel.site) is None:
            return "no slot of the site is free"
        if (kernel.site, kernel.category) in self.present:
            return f"category {kernel.category} is present at the site"
        return None

    def plant(self, arm: Arm) -> Plant:
        """The operation that plants an arm in the first free slot of its site.

        Raises:
            ValueError: the arm may not be planted now.
        """
        slot = self._free_slot(arm.kernel.site)
        if slot is None:
            raise ValueError(f"no slot of {arm.kernel.site} is free")
        return Plant(
            site=arm.kernel.site,
            slot=slot,
            kernel_id=arm.kernel.kernel_id,
            blueprint_id=arm.kernel.blueprint_id,
            alpha=self.rules.alpha,
            ramp_steps=self.state.report_interval_steps,
        )

    def after(self, operations: tuple[Operation, ...]) -> "Board":
        """Return the board as it will be once the operations are applied.

        A culled slot stays occupied, for its embargo begins; its trial is over.
        """
        planted = [op for op in operations if isinstance(op, Plant)]
        culled = [op for op in operations if isinstance(op, Cull)]
        ended = len(operations) - len(planted)
        return replace(
            self,
            occupied=self.occupied | {(op.site, op.slot) for op in planted},
            present=self.present | {(op.site, self._category(op)) for op in planted},
            culled=self.culled | {(op.site, op.kernel_id) for op in culled},
            on_trial=self.on_trial + len(planted) - ended,
        )

    def beside(self, operations: tuple[Operation, ...]) -> "Board":
        """Return the board for a plan that must be right whether or not these are applied.

        The trainer may refuse them, so the places on trial that they would free still count.
        """
        after = self.after(operations)
        return replace(after, on_trial=max(self.on_trial, after.on_trial))

    def blueprint_of(self, trial: Trial) -> str:
        """The name of what is on trial; a shortened kernel id where it is no longer offered."""
        arm = self.arm_on(trial.site, trial.kernel_id)
        return arm.kernel.blueprint_id if arm else trial.kernel_id[:12]

    def candidates(self) -> tuple[Candidate, ...]:
        """All arms as the decision records them, the best first."""
        return tuple(
            Candidate(
                site=ranked.arm.kernel.site,
                blueprint_id=ranked.arm.kernel.blueprint_id,
                kernel_id=ranked.arm.kernel.kernel_id,
                pulls=ranked.arm.pulls,
                mean=ranked.arm.mean if ranked.arm.pulls else None,
                score=ranked.score,
                excluded=self.exclusion(ranked.arm),
            )
            for ranked in self.ranking
        )

    def _category(self, operation: Operation) -> str:
        arm = self.arm_on(operation.site, operation.kernel_id)
        return arm.kernel.category if arm else ""

    def _free_slot(self, site: str) -> int | None:
        slots = range(self.state.slots.get(site, 0))
        return next((slot for slot in slots if (site, slot) not in self.occupied), None)


def set_up(state: FoldState, report: SeedReport, policy: Policy, rules: Rules) -> Board:
    """Return the board after a report, its arms ranked by `policy`, the best first.

    Equal scores are ordered by the run's random numbers, so that no arm is favoured by its name.
    """
    categories = {
        (arm.kernel.site, arm.kernel.blueprint_id): arm.kernel.category for arm in state.arms
    }
    # By blueprint, not by kernel: what was planted may have been superseded by a newer kernel.
    planted = [
        (seed.site, seed.blueprint_id) for seed in report.seeds if seed.blueprint_id is not None
    ]
    return Board(
        state=state,
        report=report,
        rules=rules,
        ranking=_ranked(state, report.seq, policy),
        occupied=frozenset((seed.site, seed.slot) for seed in report.seeds),
        present=frozenset((name[0], categories.get(name, "")) for name in planted),
        culled=frozenset(),
        on_trial=len(state.trials),
    )


def _ranked(state: FoldState, seq: int, policy: Policy) -> tuple[RankedArm, ...]:
    scores = policy.score([arm.statistics for arm in state.arms], state.policy.params)
    draws = [uniform(state.seed, seq, TIE_BREAK, index) for index in range(len(scores))]

    def rank(index: int) -> tuple[bool, float, float]:
        score = scores[index]
        return (score is not None, -(score or 0.0), draws[index])

    order = sorted(range(len(scores)), key=rank)
    return tuple(RankedArm(state.arms[index], scores[index]) for index in order)
