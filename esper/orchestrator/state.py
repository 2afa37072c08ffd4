"""What the fold remembers of a run between two reports: plain, frozen, serialisable data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field

from esper.bandit import (
    ArmHistory,
    ArmStats,
    HistoryKey,
    HistoryRow,
    LinearModel,
    PerformanceTracker,
    SlotId,
)
from esper.orchestrator.candidates import Arm, Arms
from esper.orchestrator.run import RunContext
from esper.topics.codec import Undecodable, encode, sha256_of
from esper.topics.models import LoadableKernel, RunConfig, SeedReport, SiteName, Strategy

FULL_ALPHA = 1.0
"""The alpha of a kernel alone, and what all that are on trial at one site have together."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Trial(_Frozen):
    """A planted seed whose worth is being measured; judged once, when enough is known.

    `contributions` has one entry per report at full alpha, None where it could not be measured. It
    begins anew after the warm-up, of which `warmed_up` counts the reports.
    The rest is of orchestrated runs: the alpha that it has or is on its way to, the report whose
    answer opened its round and how many entered that, and whether its alpha is its last.
    """

    site: SiteName
    slot: int
    kernel_id: str
    contributions: tuple[float | None, ...] = ()
    judged: bool = False
    warmed_up: Annotated[int, Field(exclude_if=lambda it: not it)] = 0
    alpha: Annotated[float | None, Field(exclude_if=lambda it: it is None)] = None
    round_seq: Annotated[int | None, Field(exclude_if=lambda it: it is None)] = None
    round_size: Annotated[int | None, Field(exclude_if=lambda it: it is None)] = None
    settled: Annotated[bool, Field(exclude_if=lambda it: not it)] = False

    @property
    def seat(self) -> SlotId:
        """The seed that it is of."""
        return SlotId(self.site, self.slot)


class PendingDecision(_Frozen):
    """A decision that the trainer has not answered yet, and the arms it would plant."""

    decision_id: str
    planted: tuple[tuple[SiteName, str], ...] = ()


class RequestedAlpha(_Frozen):
    """What a decision asks of a seed's alpha, remembered until the trainer has answered.

    `round_size` is that of the round that the decision opens; None where it plants nothing there
    and only changes the alpha.
    """

    decision_id: str
    site: SiteName
    slot: int
    kernel_id: str
    alpha: float
    round_seq: int
    round_size: int | None = None


class StrategyState(_Frozen):
    """What an orchestrated run intends: a strategy, since which report, and why.

    `losses` are its last probe losses, the newest last.
    """

    strategy: Strategy | None = None
    since_seq: int = 0
    why: str = ""
    losses: tuple[float, ...] = ()
    asked: tuple[RequestedAlpha, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class FoldState:
    """The state of one run after report `last_seq`.

    `evidence_sha256` chains the digests of all reports folded so far, which puts every one of them
    under the state's digest. `previous_sha256` is the digest of the last decision's bytes; it is
    left out of the state's digest, which that decision contains. `occupied` holds the last report
    in which a seat was not dormant, as long as that matters, `rotation` the categories planted
    last at a site, `said` the last reason given for doing nothing, `strategy_state` what the run intends
    where it is orchestrated, `first_loss` the first probe loss, where kernels are held against it.
    """

    run: RunContext
    arms: Arms
    seeds: ArmStats
    tracker: PerformanceTracker
    last_seq: int = -1
    closed: bool = False
    evidence_sha256: str = ""
    trials: tuple[Trial, ...] = ()
    pending: tuple[PendingDecision, ...] = ()
    occupied: Mapping[SlotId, int] = field(default_factory=dict)
    rotation: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    model: LinearModel | None = None
    said: str | None = None
    strategy_state: StrategyState | None = None
    first_loss: float | None = None
    previous_sha256: str | None = None

    @classmethod
    def opened_by(cls, report: SeedReport) -> "FoldState":
        """Return the state before the first report of a run.

        Raises:
            ValueError: the report opens no run, or asks for a policy that there is not.
        """
        run_config = report.run_config
        if run_config is None:
            raise ValueError(f"report {report.seq} of run {report.run_id} opens no run")
        run = RunContext(report.run_id, run_config)
        run.check()
        tracker = _empty_tracker(run)
        model = LinearModel() if run.policy.contextual else None
        return cls(
            run=run,
            arms=Arms.of((), tracker, run),
            seeds=_seeds(run, tracker),
            tracker=tracker,
            model=model,
            strategy_state=None if run.selection.orchestration is None else StrategyState(),
        )

    def __eq__(self, other: object) -> bool:
        """Whether both are stored as the same bytes, from which all the rest follows."""
        return isinstance(other, FoldState) and self.to_bytes() == other.to_bytes()

    __hash__ = None  # type: ignore[assignment]

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.run.run_id

    def sha256(self) -> str:
        """Return the digest of the state, `previous_sha256` left out."""
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
        stored["tracked"] = orjson.Fragment(self.tracker.json)
        stored["occupied"] = [[*seat, seq] for seat, seq in self.occupied.items()]
        if self.rotation:
            stored["rotation"] = self.rotation
        if self.model is not None:
            stored["model"] = self.model.model_dump()
        if self.said is not None:
            stored["said"] = self.said
        if self.strategy_state is not None:
            stored["agenda"] = self.strategy_state.model_dump()
        if self.first_loss is not None:
            stored["first_loss"] = self.first_loss
        return stored

    @classmethod
    def from_bytes(cls, value: bytes) -> "FoldState":
        """Return the state that `to_bytes` wrote.

        Raises:
            Undecodable: these bytes are no state of this version.
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


class _Tracked(_Frozen):
    trials: int = 0
    rows: tuple[HistoryRow, ...] = ()


class _Stored(RunConfig):
    """A state as it is stored: the fields of the opening, and what changed since."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    run_id: str
    last_seq: int
    closed: bool
    evidence_sha256: str
    arms: tuple[_StoredArm, ...]
    trials: tuple[Trial, ...]
    pending: tuple[PendingDecision, ...]
    tracked: _Tracked | None = None
    occupied: tuple[tuple[SiteName, int, int], ...] = ()
    rotation: dict[SiteName, tuple[str, ...]] = {}
    model: LinearModel | None = None
    said: Annotated[str | None, Field(max_length=500)] = None
    agenda: StrategyState | None = None
    first_loss: float | None = None
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
            seeds=_seeds(run, tracker),
            tracker=tracker,
            last_seq=self.last_seq,
            closed=self.closed,
            evidence_sha256=self.evidence_sha256,
            trials=self.trials,
            pending=self.pending,
            occupied={SlotId(site, slot): seq for site, slot, seq in self.occupied},
            rotation=self.rotation,
            model=self.model,
            said=self.said,
            strategy_state=self.agenda,
            first_loss=self.first_loss,
            previous_sha256=self.previous_sha256,
        )

    def _tracker(self, run: RunContext) -> PerformanceTracker:
        tracker = _empty_tracker(run)
        if self.tracked is not None:
            return tracker.with_rows(self.tracked.trials, self.tracked.rows)
        # A run without a selection stores of each arm what its policy needs, and no more.
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
        discounting=run.policy.discounting, attention_forgetting=attention.discounting
    )


def _seeds(run: RunContext, tracker: PerformanceTracker) -> ArmStats:
    histories = {
        place: history
        for place, seat in enumerate(run.seats)
        if (history := tracker.of(HistoryKey(seat.site, seat.slot))) is not None
    }
    return ArmStats.of(len(run.seats), histories, {})
