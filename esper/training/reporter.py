"""Reports: collect what happened since the last report, and number what is sent."""

import math
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from esper.seed import Site, Slot
from esper.topics.models import (
    AuditionResult,
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
    """What the next report carries besides measurements; each field is the report's of that name.

    A list takes the events of its element type from `add`.
    """

    model_config = ConfigDict(extra="forbid")

    kernels: list[LoadableKernel] = Field(default_factory=list)
    refusals: list[KernelRefusal] = Field(default_factory=list)
    outcomes: list[DecisionOutcome] = Field(default_factory=list)
    incidents: list[Incident] = Field(default_factory=list)
    requests: list[RunRequest] = Field(default_factory=list)
    auditions: list[AuditionResult] = Field(default_factory=list)
    paused: bool = False

    ORDER: ClassVar[dict[str, Callable[[Any], Any]]] = {
        "kernels": attrgetter("site", "blueprint_id"),
        "refusals": attrgetter("kernel_id"),
        "auditions": attrgetter("site", "kernel_id"),
    }
    """Sort keys of fields whose order of arrival depends on timing. The sort is stable: the later
    of two kernels with one name stays the later, because it supersedes the other."""

    def add(self, event: BaseModel) -> None:
        """Append an event to the list of its type."""
        getattr(self, _LIST_OF[type(event)]).append(event)

    def remove_reported(self, report: SeedReport) -> None:
        """Remove what a report carries, and take over whether the run is paused."""
        for name in _LIST_OF.values():
            reported = getattr(report, name)
            setattr(self, name, [event for event in getattr(self, name) if event not in reported])
        self.paused = report.paused

    def report_fields(self) -> dict[str, Any]:
        """Return the fields of the report."""
        fields: dict[str, Any] = {"paused": self.paused}
        for name in _LIST_OF.values():
            if events := getattr(self, name):
                key = self.ORDER.get(name)
                fields[name] = tuple(sorted(events, key=key) if key else events)
        return fields


_LIST_OF = {
    get_args(field.annotation)[0]: name
    for name, field in News.model_fields.items()
    if get_args(field.annotation)
}
"""The name of the list by the type of its events."""


class Reporter:
    """Makes the reports of one run, in sequence.

    `news` goes into the next report. `closing_seq` is the number of the report that closed the run.
    """

    def __init__(self, run_id: str, run_config: RunConfig) -> None:
        self.run_id = run_id
        self.run_config = run_config
        self.news = News()
        self.next_seq = 0
        self.last: SeedReport | None = None
        self.closing_seq: int | None = None

    def restore(self, next_seq: int, last: SeedReport, news: News) -> None:
        """Continue after the report before `next_seq`."""
        self.next_seq, self.last, self.news = next_seq, last, news

    def skip(self, report: SeedReport) -> None:
        """Continue after a report that is already recorded."""
        self.next_seq, self.last = report.seq + 1, report
        if report.closing:
            self.closing_seq = report.seq
        self.news.remove_reported(report)

    def next(
        self,
        sites: Mapping[str, Site],
        measured: ProbeResult,
        *,
        step: int,
        train_loss: Tensor | None,
        gradients: Mapping[str, float] | None = None,
        refused_decisions: int = 0,
        closing: bool = False,
    ) -> SeedReport:
        """Return the next report; it takes a number and must be sent."""
        report = SeedReport(
            run_id=self.run_id,
            seq=self.next_seq,
            step=step,
            train_loss=_finite(train_loss),
            probe_loss=measured.loss,
            run_config=self.run_config if self.next_seq == 0 else None,
            seeds=tuple(
                _status(site, slot, measured, step)
                for site in sites.values()
                for slot in site.slots
                if slot.state is not SeedState.DORMANT
            ),
            gradients=dict(gradients or {}),
            refused_decisions=refused_decisions,
            closing=closing,
            **self.news.report_fields(),
        )
        if closing:
            self.closing_seq = self.next_seq
        self.next_seq += 1
        self.last = report
        self.news = News(paused=self.news.paused)
        return report


def _status(site: Site, slot: Slot, measured: ProbeResult, step: int) -> SeedStatus:
    plant = slot.planted
    if plant is None:
        return SeedStatus(
            site=site.name, slot=slot.index, state=slot.state, age_steps=step - slot.since_step
        )
    # A merged kernel has no parameters of its own.
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
