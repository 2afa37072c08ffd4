"""The state that the fold keeps of a run between two reports: frozen, serialisable data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import orjson
from pydantic import ConfigDict, Field

from esper.bandit import (
    ArmHistory,
    ArmStats,
    HistoryKey,
    HistoryRow,
    LinearModel,
    MemoryUpdate,
    PerformanceTracker,
    SlotId,
)
from esper.orchestrator.audition_round import AuditionRound
from esper.orchestrator.candidates import Arm, Arms
from esper.orchestrator.run import RunContext
from esper.topics.codec import Undecodable, encode, sha256_of
from esper.topics.models import (
    Cull,
    Fossilize,
    Identifier,
    LoadableKernel,
    OmitDefault,
    OmitsDefaults,
    RunConfig,
    SeedReport,
    Selection,
    SiteName,
)

FULL_ALPHA = 1.0
"""The alpha of a kernel alone at its site, and the sum of all alphas on trial at one site."""


class _Frozen(OmitsDefaults):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Trial(_Frozen):
    """The trial of one planted seed, judged once, when it has enough measurements.

    `contributions` has one entry per report at full alpha, None where the report has no
    measurement; the list restarts after the warm-up, whose reports `warmed_up` counts.

    Only orchestrated runs use the remaining fields: `alpha` is the alpha of the seed or the target
    of its ramp, `round_seq` the report that started its tournament round, `round_size` the number
    of candidates in that round, `settled` whether the alpha is final.
    """

    site: SiteName
    slot: int
    kernel_id: str
    contributions: tuple[float | None, ...] = ()
    judged: bool = False
    warmed_up: OmitDefault[int] = 0
    alpha: OmitDefault[float | None] = None
    round_seq: OmitDefault[int | None] = None
    round_size: OmitDefault[int | None] = None
    settled: OmitDefault[bool] = False

    @property
    def slot_id(self) -> SlotId:
        """The slot of the seed."""
        return SlotId(self.site, self.slot)

    def mean_contribution(self) -> float | None:
        """Return the mean of the measured contributions; None without a measurement."""
        measured = [value for value in self.contributions if value is not None]
        # fsum rounds alike in every Python version; sum does not.
        return math.fsum(measured) / len(measured) if measured else None

    def warming_up(self, selection: Selection) -> bool:
        """Return whether the seed is in its warm-up, whose contributions are not compared."""
        return self.warmed_up < selection.warmup_reports

    def cull(self) -> Cull:
        """Return the operation that removes the seed."""
        return Cull(site=self.site, slot=self.slot, kernel_id=self.kernel_id)

    def fossilize(self) -> Fossilize:
        """Return the operation that keeps the seed for good."""
        return Fossilize(site=self.site, slot=self.slot, kernel_id=self.kernel_id)


class PendingDecision(_Frozen):
    """A decision that awaits the trainer's outcome, and the (site, kernel_id) it would plant."""

    decision_id: str
    planted: tuple[tuple[SiteName, str], ...] = ()


class RequestedAlpha(_Frozen):
    """The alpha that a decision requests for a seed, kept until the trainer reports the outcome.

    `round_size` is the size of the tournament round that the decision starts; None where the
    decision only changes the seed's alpha.
    """

    decision_id: str
    site: SiteName
    slot: int
    kernel_id: str
    alpha: float
    round_seq: int
    round_size: int | None = None


class StrategyState(_Frozen):
    """The strategy of an orchestrated run, the report that chose it, and why.

    `losses` are the run's latest probe losses, the newest last. `requested_alphas` is stored as
    `asked`.
    """

    strategy: Identifier | None = None
    since_seq: int = 0
    why: str = ""
    losses: tuple[float, ...] = ()
    requested_alphas: Annotated[tuple[RequestedAlpha, ...], Field(alias="asked")] = ()


# Digests of committed histories cover the stored bytes, so stored keys never change.
STORED_KEYS: Final[Mapping[str, str]] = {
    "tracker": "tracked",
    "idle_reason": "said",
    "strategy_state": "agenda",  # codespell:ignore agenda
}
"""The stored key of each field of `FoldState` that is not stored under its own name."""


@dataclass(frozen=True, slots=True, eq=False)
class FoldState:
    """The state of one run after report `last_seq`.

    `evidence_sha256` chains the digests of all folded reports, so the state's digest covers each.
    `previous_sha256` is the digest of the last decision's bytes; the state's digest, which that
    decision contains, leaves it out. `occupied` maps a slot to the last report in which the slot
    was not dormant, for as long as a limit needs it. `rotation` holds the categories planted last
    at each site. `idle_reason` is the last reason given for taking no action. `strategy_state` is
    set in orchestrated runs, `first_loss` in runs with `keep_first_share`: the first probe loss,
    `audition_round` in runs with auditions.

    Stored states use the keys of `STORED_KEYS`.
    """

    run: RunContext
    arms: Arms
    slot_stats: ArmStats
    tracker: PerformanceTracker
    last_seq: int = -1
    closed: bool = False
    evidence_sha256: str = ""
    trials: tuple[Trial, ...] = ()
    pending: tuple[PendingDecision, ...] = ()
    occupied: Mapping[SlotId, int] = field(default_factory=dict)
    rotation: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    model: LinearModel | None = None
    idle_reason: str | None = None
    strategy_state: StrategyState | None = None
    first_loss: float | None = None
    audition_round: AuditionRound | None = None
    previous_sha256: str | None = None

    @classmethod
    def opened_by(cls, report: SeedReport) -> "FoldState":
        """Return the state before the first report of a run.

        Raises:
            ValueError: the report has no run_config, or names an unknown policy.
        """
        run_config = report.run_config
        if run_config is None:
            raise ValueError(f"report {report.seq} of run {report.run_id} has no run_config")
        run = RunContext(report.run_id, run_config)
        run.check()
        tracker = _empty_tracker(run)
        model = LinearModel() if run.policy.contextual else None
        return cls(
            run=run,
            arms=Arms.of((), tracker, run),
            slot_stats=_slot_stats(run, tracker),
            tracker=tracker,
            model=model,
            strategy_state=None if run.selection.orchestration is None else StrategyState(),
            audition_round=None if run.selection.auditions is None else AuditionRound(),
        )

    def __eq__(self, other: object) -> bool:
        """Return whether both are stored as the same bytes."""
        return isinstance(other, FoldState) and self.to_bytes() == other.to_bytes()

    __hash__ = None  # type: ignore[assignment]

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.run.run_id

    def sha256(self) -> str:
        """Return the digest of the state without `previous_sha256`."""
        return sha256_of(orjson.dumps(self._stored(), option=orjson.OPT_SORT_KEYS))

    def to_bytes(self) -> bytes:
        """Return the state as canonical JSON."""
        stored = self._stored() | {"previous_sha256": self.previous_sha256}
        return orjson.dumps(stored, option=orjson.OPT_SORT_KEYS)

    def _stored(self) -> dict[str, Any]:
        stored: dict[str, Any] = {
            **self.run.stored,
            "last_seq": self.last_seq,
            "closed": self.closed,
            "evidence_sha256": self.evidence_sha256,
            "arms": orjson.Fragment(self.arms.json),
            "trials": [trial.model_dump() for trial in self.trials],
            "pending": [waiting.model_dump() for waiting in self.pending],
        }
        if not self.run.selects:
            return stored
        stored[STORED_KEYS["tracker"]] = orjson.Fragment(self.tracker.json)
        stored["occupied"] = [[*slot_id, seq] for slot_id, seq in self.occupied.items()]
        if self.rotation:
            stored["rotation"] = self.rotation
        if self.model is not None:
            stored["model"] = self.model.model_dump()
        if self.idle_reason is not None:
            stored[STORED_KEYS["idle_reason"]] = self.idle_reason
        if self.strategy_state is not None:
            stored[STORED_KEYS["strategy_state"]] = self.strategy_state.model_dump(by_alias=True)
        if self.first_loss is not None:
            stored["first_loss"] = self.first_loss
        if self.audition_round is not None:
            stored["audition_round"] = self.audition_round.model_dump()
        return stored

    @classmethod
    def from_bytes(cls, value: bytes) -> "FoldState":
        """Return the state from the bytes of `to_bytes`.

        Raises:
            Undecodable: the bytes are not a state of this version.
        """
        try:
            return _Stored.model_validate_json(value).restored()
        except ValueError as error:
            raise Undecodable(f"not a fold state of this version: {error}") from error


class _StoredArm(_Frozen):
    kernel: LoadableKernel
    pulls: int
    mean: float
    embargo_until_seq: int


class _StoredTracker(_Frozen):
    trials: int = 0
    rows: tuple[HistoryRow, ...] = ()


class _Stored(RunConfig):
    """A stored state: the fields of the run_config, then the fields that reports change."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    run_id: str
    last_seq: int
    closed: bool
    evidence_sha256: str
    arms: tuple[_StoredArm, ...]
    trials: tuple[Trial, ...]
    pending: tuple[PendingDecision, ...]
    tracker: Annotated[_StoredTracker | None, Field(alias=STORED_KEYS["tracker"])] = None
    occupied: tuple[tuple[SiteName, int, int], ...] = ()
    rotation: dict[SiteName, tuple[str, ...]] = {}
    model: LinearModel | None = None
    idle_reason: Annotated[str | None, Field(max_length=500, alias=STORED_KEYS["idle_reason"])] = (
        None
    )
    strategy_state: Annotated[StrategyState | None, Field(alias=STORED_KEYS["strategy_state"])] = (
        None
    )
    first_loss: float | None = None
    audition_round: AuditionRound | None = None
    previous_sha256: str | None = None

    def restored(self) -> FoldState:
        run_config = RunConfig.model_validate(
            {name: getattr(self, name) for name in RunConfig.model_fields}
        )
        run = RunContext(self.run_id, run_config)
        run.check()
        tracker = self._tracker(run)
        rows = [
            Arm(arm.kernel, encode(arm.kernel), arm.pulls, arm.mean, arm.embargo_until_seq)
            for arm in self.arms
        ]
        return FoldState(
            run=run,
            arms=Arms.of(rows, tracker, run),
            slot_stats=_slot_stats(run, tracker),
            tracker=tracker,
            last_seq=self.last_seq,
            closed=self.closed,
            evidence_sha256=self.evidence_sha256,
            trials=self.trials,
            pending=self.pending,
            occupied={SlotId(site, slot): seq for site, slot, seq in self.occupied},
            rotation=self.rotation,
            model=self.model,
            idle_reason=self.idle_reason,
            strategy_state=self.strategy_state,
            first_loss=self.first_loss,
            audition_round=self.audition_round,
            previous_sha256=self.previous_sha256,
        )

    def _tracker(self, run: RunContext) -> PerformanceTracker:
        tracker = _empty_tracker(run)
        if self.tracker is not None:
            return tracker.with_rows(self.tracker.trials, self.tracker.rows)
        # A run without a selection stores only pulls and mean of each arm.
        rows = [
            HistoryRow(
                site=arm.kernel.site,
                blueprint_id=arm.kernel.blueprint_id,
                history=ArmHistory(pulls=arm.pulls, mean=arm.mean),
            )
            for arm in self.arms
            if arm.pulls
        ]
        return tracker.with_rows(sum(arm.pulls for arm in self.arms), rows)


def _empty_tracker(run: RunContext) -> PerformanceTracker:
    attention = run.attention or run.policy
    return PerformanceTracker(
        discounting=run.policy.discounting, attention_discounting=attention.discounting
    )


def _slot_stats(run: RunContext, tracker: PerformanceTracker) -> ArmStats:
    histories = {
        index: history
        for index, slot_id in enumerate(run.slot_ids)
        if (history := tracker.of(HistoryKey(slot_id.site, slot_id.slot))) is not None
    }
    return ArmStats.of(len(run.slot_ids), histories, {})


def memory_updates(state: FoldState) -> list[MemoryUpdate]:
    """Return the trials and mean reward of each tried arm, for the memory of the run's family.

    Priors are left out, and so are sites whose signature the run_config does not state: memory
    finds arms by signature.
    """
    signatures = state.run.signatures
    return [
        MemoryUpdate(
            signatures[arm.kernel.site], arm.kernel.blueprint_id, float(arm.pulls), arm.mean
        )
        for arm in state.arms
        if arm.pulls and arm.kernel.site in signatures
    ]
