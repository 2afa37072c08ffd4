"""Reports of many runs, one in twenty of which leads to a decision, and their publication."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import AIOKafkaProducer

from esper.bandit import DEFAULT_POLICY, TRIALS
from esper.blueprint import shipped
from esper.orchestrator import LISTED_CANDIDATES
from esper.topics.catalog import SEED_METRICS
from esper.topics.codec import cloud_event_headers, encode, sha256_of
from esper.topics.models import (
    AdaptationDecision,
    DecisionOutcome,
    LoadableKernel,
    OutcomeStatus,
    RunConfig,
    SeedReport,
    SeedState,
    SeedStatus,
    SelectionLimits,
    SiteKind,
)

REPORTS_A_DECISION: Final = 20
STEPS_A_REPORT: Final = 20
SOURCE: Final = "/esper/benchmark"

SITES: Final = {
    "conv1": SiteKind.FEATURE_MAP,
    "conv2": SiteKind.FEATURE_MAP,
    "fc1": SiteKind.VECTOR,
}
"""The sites of the digits host; with the shipped blueprints they are the arms of a run."""


@dataclass(frozen=True, slots=True)
class ReportLoad:
    """The reports of `runs` runs of `decisions_a_run` times twenty reports; `name` must be new.

    The first of every twenty reports leads to a decision. Its refusal comes twenty reports later,
    and a pending decision prevents others.
    """

    name: str
    runs: int
    decisions_a_run: int

    @property
    def reports(self) -> int:
        """Number of reports of all runs."""
        return self.runs * self.decisions_a_run * REPORTS_A_DECISION

    @property
    def decisions(self) -> int:
        """Number of decisions that the reports lead to."""
        return self.runs * self.decisions_a_run

    def __iter__(self) -> Iterator[SeedReport]:
        """Yield the reports, runs interleaved, each run in order."""
        names = [f"{self.name}-{number}" for number in range(self.runs)]
        for seq in range(self.decisions_a_run * REPORTS_A_DECISION):
            for run_id in names:
                yield report(run_id, seq)


async def put_on_topic(load: ReportLoad, servers: str) -> None:
    """Publish a load to `seed-metrics` in order; return when the broker has confirmed it."""
    producer = AIOKafkaProducer(bootstrap_servers=servers, enable_idempotence=True, acks="all")
    await producer.start()
    try:
        # Sequential sends, because concurrent sends may change the order.
        confirmed = [await _send(producer, event) for event in load]
        await asyncio.gather(*confirmed)
    finally:
        await producer.stop()


async def _send(producer: AIOKafkaProducer, report: SeedReport) -> "asyncio.Future[Any]":
    value = encode(report)
    confirmed: asyncio.Future[Any] = await producer.send(
        SEED_METRICS.name,
        value,
        key=SEED_METRICS.key_of(report),
        headers=list(cloud_event_headers("SeedReport", value, source=SOURCE)),
    )
    return confirmed


def report(run_id: str, seq: int) -> SeedReport:
    """Return one report of a run of the load."""
    answers = seq > 0 and seq % REPORTS_A_DECISION == 0
    return SeedReport(
        run_id=run_id,
        seq=seq,
        step=seq * STEPS_A_REPORT,
        train_loss=0.5,
        probe_loss=0.6,
        run_config=_run_config() if seq == 0 else None,
        kernels=KERNELS if seq == 0 else (),
        seeds=KEPT,
        outcomes=(_refusal(run_id, seq),) if answers else (),
    )


def _refusal(run_id: str, seq: int) -> DecisionOutcome:
    """Return the refusal of the decision of twenty reports ago."""
    return DecisionOutcome(
        decision_id=AdaptationDecision.id_of(run_id, seq - REPORTS_A_DECISION, 0),
        status=OutcomeStatus.REFUSED,
        step=seq * STEPS_A_REPORT - 1,
        reason="a benchmark plants nothing",
    )


def _run_config() -> RunConfig:
    return RunConfig(
        seed=0,
        slots=dict.fromkeys(SITES, 2),
        policy=DEFAULT_POLICY,
        host_params=1000,
        report_interval_steps=STEPS_A_REPORT,
        listed_candidates=LISTED_CANDIDATES,
        # Without dormant reports, the first report already leads to a decision.
        selection=TRIALS.model_copy(update={"limits": SelectionLimits(dormant_reports=0)}),
    )


def _kernels() -> Sequence[LoadableKernel]:
    return [
        LoadableKernel(
            kernel_id=sha256_of(f"{site}/{blueprint.blueprint_id}".encode()),
            site=site,
            blueprint_id=blueprint.blueprint_id,
            category=blueprint.category,
            params=100,
        )
        for site, kind in SITES.items()
        for blueprint in shipped()
        if kind in blueprint.kinds
    ]


def _kept(kernel: LoadableKernel) -> SeedStatus:
    return SeedStatus(
        site=kernel.site,
        slot=0,
        state=SeedState.FOSSILIZED,
        kernel_id=kernel.kernel_id,
        blueprint_id=kernel.blueprint_id,
        alpha=1.0,
        params=kernel.params,
        age_steps=400,
    )


KERNELS: Final = tuple(_kernels())
KEPT: Final = tuple(
    _kept(next(kernel for kernel in KERNELS if kernel.site == site)) for site in SITES
)
"""One kept seed at each site, as in the reports of a real run."""
