"""A simulated trainer: it makes reports, folds them, and applies or refuses the decisions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from esper.audit import cause_of
from esper.orchestrator import FoldState, fold
from esper.topics.bus import Record
from esper.topics.catalog import ADAPTATION_DECISION, DECISION_CANDIDATES, SEED_METRICS, Topic
from esper.topics.codec import cloud_event_headers, encode, sha256_of
from esper.topics.models import (
    AdaptationDecision,
    AuditionResult,
    Cull,
    DecisionOutcome,
    Event,
    Fossilize,
    Incident,
    KernelCost,
    LoadableKernel,
    MemorySnapshot,
    Orchestration,
    OutcomeStatus,
    Plant,
    PolicySpec,
    Priors,
    RequestKind,
    Reweight,
    RunConfig,
    RunRequest,
    SeedReport,
    SeedState,
    SeedStatus,
    Selection,
    SelectionLimits,
    SiteFacts,
)


def selection(
    *,
    max_on_trial: int = 2,
    trial_reports: int = 2,
    keep_share: float = 0.05,
    embargo_reports: int = 4,
    dormant_reports: int = 0,
    attention: PolicySpec | None = None,
    memory: float = 0.0,
    orchestration: Orchestration | None = None,
    warmup_reports: int = 0,
    keep_first_share: float = 0.0,
    **more: Any,
) -> Selection:
    """Return the selection of a test run, with short trials; `more` are `SelectionLimits`."""
    return Selection(
        attention=attention,
        limits=SelectionLimits(
            max_on_trial=max_on_trial,
            embargo_reports=embargo_reports,
            dormant_reports=dormant_reports,
            **more,
        ),
        priors=Priors(cost=0.0, memory=memory, category=0.0),
        trial_reports=trial_reports,
        warmup_reports=warmup_reports,
        keep_share=keep_share,
        keep_first_share=keep_first_share,
        orchestration=orchestration,
    )


RULES = selection()
INTERVAL = 20

SlotKey = tuple[str, int]


def kernel(
    site: str,
    blueprint: str,
    category: str | None = None,
    version: int = 1,
    params: int = 100,
    cost: KernelCost | None = None,
) -> LoadableKernel:
    """Return a loadable kernel; its category defaults to its blueprint's name."""
    return LoadableKernel(
        kernel_id=sha256_of(f"{site}/{blueprint}/{version}".encode()),
        site=site,
        blueprint_id=blueprint,
        category=category or blueprint,
        params=params,
        cost=cost,
    )


@dataclass
class Seed:
    """State of a slot that is not dormant; without a kernel while loading and after a cull."""

    state: SeedState
    kernel_id: str | None = None
    blueprint_id: str | None = None
    alpha: float = 0.0


@dataclass
class Trainer:
    """Make reports and fold them immediately; keep reports, decisions and candidates as records."""

    slots: Mapping[str, int]
    run_id: str = "run"
    selection: Selection | None = RULES
    sites: Mapping[str, SiteFacts] = field(default_factory=dict)
    memory: MemorySnapshot | None = None
    seed: int = 7
    policy: PolicySpec = field(default_factory=PolicySpec)
    lockstep: bool = False
    listed_candidates: int | None = None
    state: FoldState | None = None
    seeds: dict[SlotKey, Seed] = field(default_factory=dict)
    reports: list[Record] = field(default_factory=list)
    decisions: list[Record] = field(default_factory=list)
    candidates: list[Record] = field(default_factory=list)
    outcomes: list[DecisionOutcome] = field(default_factory=list)

    @property
    def seq(self) -> int:
        """Return the number of the next report."""
        return len(self.reports)

    @property
    def fold_state(self) -> FoldState:
        """Return the state after the last report."""
        assert self.state is not None
        return self.state

    def report(
        self,
        *kernels: LoadableKernel,
        contributions: Mapping[SlotKey, float | None] | None = None,
        probe_loss: float | None = 1.0,
        closing: bool = False,
        paused: bool = False,
        requests: Sequence[RunRequest] = (),
        incidents: Sequence[Incident] = (),
        auditions: Sequence[AuditionResult] = (),
    ) -> Sequence[AdaptationDecision]:
        """Make the next report, fold it, advance ramps and culled slots; return the decisions."""
        report = self._next(kernels, contributions or {}, probe_loss, closing)
        extra = {
            "paused": paused,
            "requests": tuple(requests),
            "incidents": tuple(incidents),
            "auditions": tuple(auditions),
        }
        report = report.model_copy(update=extra)
        record = self._write(SEED_METRICS, report, self.reports)
        self.state, decisions, candidates = fold(self.state, report, cause_of(record, report))
        for event in candidates:
            self._write(DECISION_CANDIDATES, event, self.candidates)
        for decision in decisions:
            self._write(ADAPTATION_DECISION, decision, self.decisions)
        self._age()
        return decisions

    def reserve(self, decision: AdaptationDecision) -> None:
        """Reserve the slots of a decision; they are loading from now on."""
        for operation in decision.operations:
            if isinstance(operation, Plant):
                slot_id = operation.site, operation.slot
                assert slot_id not in self.seeds, "a kernel is planted where a slot is not free"
                self.seeds[slot_id] = Seed(SeedState.LOADING)

    def apply(self, decision: AdaptationDecision) -> None:
        """Apply a reserved decision; assert that every operation is possible."""
        for operation in decision.operations:
            slot_id = operation.site, operation.slot
            seed = self.seeds[slot_id]
            match operation:
                case Plant():
                    assert seed.state is SeedState.LOADING
                    self.seeds[slot_id] = Seed(
                        SeedState.BLENDING,
                        operation.kernel_id,
                        operation.blueprint_id,
                        operation.alpha,
                    )
                case Cull():
                    assert seed.state in (SeedState.BLENDING, SeedState.ACTIVE)
                    assert seed.kernel_id == operation.kernel_id
                    self.seeds[slot_id] = Seed(SeedState.CULLED)
                case Fossilize():
                    assert (seed.state, seed.kernel_id) == (SeedState.ACTIVE, operation.kernel_id)
                    seed.state = SeedState.FOSSILIZED
                case Reweight():
                    assert (seed.state, seed.kernel_id) == (SeedState.ACTIVE, operation.kernel_id)
                    seed.state, seed.alpha = SeedState.BLENDING, operation.alpha
        self._answer(decision, OutcomeStatus.APPLIED)

    def accept(self, decisions: Sequence[AdaptationDecision]) -> None:
        """Reserve and apply decisions."""
        for decision in decisions:
            self.reserve(decision)
            self.apply(decision)

    def refuse(self, decision: AdaptationDecision) -> None:
        """Refuse a reserved decision and free its slots."""
        for operation in decision.operations:
            if isinstance(operation, Plant):
                del self.seeds[operation.site, operation.slot]
        self._answer(decision, OutcomeStatus.REFUSED)

    def withhold(self, decision: AdaptationDecision) -> None:
        """Withhold a decision, as a dry run does."""
        self._answer(decision, OutcomeStatus.WITHHELD)

    def ask(
        self, kind: RequestKind, site: str | None = None, slot: int | None = None
    ) -> RunRequest:
        """Return a manual request to the run."""
        name = f"{self.seq} {kind} {site} {slot}"
        return RunRequest(
            request_id=sha256_of(name.encode()),
            run_id=self.run_id,
            kind=kind,
            site=site,
            slot=slot,
        )

    def _answer(self, decision: AdaptationDecision, status: OutcomeStatus) -> None:
        if not decision.operations:
            return
        step = self.seq * INTERVAL
        self.outcomes.append(
            DecisionOutcome(decision_id=decision.decision_id, status=status, step=step)
        )

    def _next(
        self,
        kernels: Sequence[LoadableKernel],
        contributions: Mapping[SlotKey, float | None],
        probe_loss: float | None,
        closing: bool,
    ) -> SeedReport:
        run_config = RunConfig(
            seed=self.seed,
            slots=dict(self.slots),
            policy=self.policy,
            host_params=1000,
            report_interval_steps=INTERVAL,
            lockstep=self.lockstep,
            selection=self.selection,
            sites=dict(self.sites),
            memory=self.memory,
            listed_candidates=self.listed_candidates,
        )
        outcomes, self.outcomes = tuple(self.outcomes), []
        return SeedReport(
            run_id=self.run_id,
            seq=self.seq,
            step=self.seq * INTERVAL,
            probe_loss=probe_loss,
            run_config=run_config if self.seq == 0 else None,
            kernels=tuple(kernels),
            seeds=tuple(
                SeedStatus(
                    site=site,
                    slot=slot,
                    state=seed.state,
                    kernel_id=seed.kernel_id,
                    blueprint_id=seed.blueprint_id,
                    alpha=seed.alpha if seed.state is not SeedState.BLENDING else seed.alpha / 2,
                    contribution=contributions.get((site, slot)),
                )
                for (site, slot), seed in sorted(self.seeds.items())
            ),
            outcomes=outcomes,
            closing=closing,
        )

    def _write(self, topic: Topic, event: Event, records: list[Record]) -> Record:
        value = encode(event)
        record = Record(
            topic=topic.name,
            partition=3,
            offset=2 * len(records),
            timestamp_ms=1_700_000_000_000,
            key=topic.key_of(event),
            value=value,
            headers=cloud_event_headers(type(event).__name__, value, source="/esper/test"),
        )
        records.append(record)
        return record

    def _age(self) -> None:
        for slot_id, seed in list(self.seeds.items()):
            if seed.state is SeedState.BLENDING:
                seed.state = SeedState.ACTIVE
            elif seed.state in (SeedState.CULLED, SeedState.ROLLED_BACK):
                del self.seeds[slot_id]


def grown_run(
    reports: int = 30,
    selection: Selection | None = RULES,
    lockstep: bool = False,
    policy: PolicySpec | None = None,
    listed_candidates: int | None = None,
) -> Trainer:
    """Return a closed run in which kernels were planted, kept and culled."""
    trainer = Trainer(
        {"conv": 2, "fc": 2},
        selection=selection,
        lockstep=lockstep,
        policy=policy or PolicySpec(),
        listed_candidates=listed_candidates,
    )
    decisions = trainer.report()
    offered = [kernel(site, name) for site in ("conv", "fc") for name in ("a", "b", "c")]
    decisions = trainer.report(*offered)
    worth = {offer.kernel_id: 0.2 if offer.blueprint_id == "b" else 0.01 for offer in offered}
    while trainer.seq < reports - 1:
        trainer.accept(decisions)
        contributions = {
            index: worth[planted.kernel_id]
            for index, planted in trainer.seeds.items()
            if planted.kernel_id is not None
        }
        decisions = trainer.report(contributions=contributions)
    trainer.accept(decisions)
    trainer.report(closing=True)
    return trainer
