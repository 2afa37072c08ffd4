"""Reports: collecting what happened since the last one, and numbering what is sent."""

import math
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from esper.seed import Site, Slot
from esper.topics.models import (
    DecisionOutcome,
    Incident,
    KernelRefusal,
    LoadableKernel,
    RunConfig,
    RunRequest,
    SeedReport,
    SeedState,
    SeedStatus,
)
from esper.training.probe import ProbeResult


class News(BaseModel):
    """What the next report will tell of, beside what is measured then."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kernels: tuple[LoadableKernel, ...] = ()
    refusals: tuple[KernelRefusal, ...] = ()
    outcomes: tuple[DecisionOutcome, ...] = ()
    incidents: tuple[Incident, ...] = ()
    requests: tuple[RunRequest, ...] = ()
    paused: bool = False


class Reporter:
    """Makes the reports of one run, in sequence; what is noted goes into the next.

    `closing_seq` is the number of the report that closes the run, once there is one; `paused` is
    what reports say of whether anything is to be decided.
    """

    def __init__(self, run_id: str, run_config: RunConfig) -> None:
        self._run_id = run_id
        self.run_config = run_config
        self.next_seq = 0
        self.last: SeedReport | None = None
        self.closing_seq: int | None = None
        self._kernels: list[LoadableKernel] = []
        self._refusals: list[KernelRefusal] = []
        self._outcomes: list[DecisionOutcome] = []
        self._incidents: list[Incident] = []
        self._requests: list[RunRequest] = []
        self.paused = False

    @property
    def news(self) -> News:
        """What was noted since the last report."""
        return News(
            kernels=tuple(self._kernels),
            refusals=tuple(self._refusals),
            outcomes=tuple(self._outcomes),
            incidents=tuple(self._incidents),
            requests=tuple(self._requests),
            paused=self.paused,
        )

    def restore(self, next_seq: int, last: SeedReport, news: News) -> None:
        """Go on as after the report before `next_seq`."""
        self.next_seq, self.last = next_seq, last
        self._kernels, self._refusals = list(news.kernels), list(news.refusals)
        self._outcomes, self._incidents = list(news.outcomes), list(news.incidents)
        self._requests, self.paused = list(news.requests), news.paused

    def skip(self, report: SeedReport) -> None:
        """Go on as after a report that is on record already: what it tells is told."""
        self.next_seq, self.last = report.seq + 1, report
        self._kernels = [each for each in self._kernels if each not in report.kernels]
        self._refusals = [each for each in self._refusals if each not in report.refusals]
        self._outcomes = [each for each in self._outcomes if each not in report.outcomes]
        self._incidents = [each for each in self._incidents if each not in report.incidents]
        self._requests = [each for each in self._requests if each not in report.requests]
        self.paused = report.paused

    def note_kernel(self, kernel: LoadableKernel) -> None:
        """A kernel became loadable at a site."""
        self._kernels.append(kernel)

    def note_refusal(self, refusal: KernelRefusal) -> None:
        """A kernel on offer was not taken."""
        self._refusals.append(refusal)

    def note_outcome(self, outcome: DecisionOutcome) -> None:
        """A decision was applied or refused."""
        self._outcomes.append(outcome)

    def note_incident(self, incident: Incident) -> None:
        """The governor stepped in."""
        self._incidents.append(incident)

    def note_request(self, request: RunRequest) -> None:
        """A person asked something of the run."""
        self._requests.append(request)

    def next(
        self,
        sites: Mapping[str, Site],
        measured: ProbeResult,
        *,
        step: int,
        train_loss: Tensor | None,
        gradients: Mapping[str, float] | None = None,
        closing: bool = False,
    ) -> SeedReport:
        """Return the next report; it must be sent, for it has taken a number."""
        report = SeedReport(
            run_id=self._run_id,
            seq=self.next_seq,
            step=step,
            train_loss=_finite(train_loss),
            probe_loss=measured.loss,
            run_config=self.run_config if self.next_seq == 0 else None,
            # In an order that does not depend on which came first; of two that are known by one
            # name the later must stay the later, for it supersedes the other.
            kernels=tuple(sorted(self._kernels, key=lambda each: (each.site, each.blueprint_id))),
            refusals=tuple(sorted(self._refusals, key=lambda each: each.kernel_id)),
            seeds=tuple(
                _status(site, slot, measured, step)
                for site in sites.values()
                for slot in site.slots
                if slot.state is not SeedState.DORMANT
            ),
            outcomes=tuple(self._outcomes),
            gradients=dict(gradients or {}),
            incidents=tuple(self._incidents),
            paused=self.paused,
            requests=tuple(self._requests),
            closing=closing,
        )
        if closing:
            self.closing_seq = self.next_seq
        self.next_seq += 1
        self.last = report
        self._kernels, self._refusals, self._outcomes = [], [], []
        self._incidents, self._requests = [], []
        return report


def _status(site: Site, slot: Slot, measured: ProbeResult, step: int) -> SeedStatus:
    plant = slot.planted
    if plant is None:
        return SeedStatus(
            site=site.name, slot=slot.index, state=slot.state, age_steps=step - slot.since_step
        )
    # What the layer took in has no parameters of its own any more.
    seed = site.seed(slot.index) if slot.merged_sha256 is None else None
    return SeedStatus(
        site=site.name,
        slot=slot.index,
        state=slot.state,
        kernel_id=plant.kernel_id,
        blueprint_id=plant.blueprint_id,
        alpha=float(seed.alpha) if seed else slot.alpha,
        params=seed.kernel.params if seed else 0,
        age_steps=step - slot.since_step,
        contribution=measured.contributions.get((site.name, slot.index)),
    )


def _finite(loss: Tensor | None) -> float | None:
    if loss is None:
        return None
    value = float(loss.detach())
    return value if math.isfinite(value) else None
