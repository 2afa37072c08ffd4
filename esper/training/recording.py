"""`RunRecording`: a recorded run, read from a history file and a kernel store."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import orjson

from esper.audit import RunRecords, read_history
from esper.errors import EsperError
from esper.kernel import FetchedKernel, fetch_all_trained, fetch_kernels
from esper.settings import Settings
from esper.store import SCHEMES
from esper.topics.bus import Record
from esper.topics.codec import Undecodable, decode
from esper.topics.models import (
    AdaptationDecision,
    DecisionOutcome,
    KernelReady,
    OutcomeStatus,
    Plant,
    RunConfig,
    SeedReport,
    SiteFacts,
)
from esper.training.link_config import trusted_key_of

E = TypeVar("E", AdaptationDecision, SeedReport, KernelReady)


class ReplayRefused(EsperError, ValueError):
    """A recording that cannot be replayed, or not with this model; the message says why."""


@dataclass(frozen=True, slots=True)
class RunRecording:
    """One complete run in order, and the kernels that it planted, by id.

    `outcomes` are by decision id, in order of application. `trained` holds the kernels that were
    planted with the weights of an audition, by the SHA-256 of their artifacts.
    """

    run_id: str
    reports: tuple[SeedReport, ...]
    decisions: tuple[AdaptationDecision, ...]
    outcomes: Mapping[str, DecisionOutcome]
    kernels: Mapping[str, FetchedKernel]
    trained: Mapping[str, FetchedKernel] = field(default_factory=dict)

    def planted(self, plant: Plant) -> FetchedKernel:
        """Return the kernel that an operation planted."""
        if plant.trained_sha256 is not None:
            return self.trained[plant.trained_sha256]
        return self.kernels[plant.kernel_id]

    @property
    def run_config(self) -> RunConfig:
        """The run configuration."""
        run_config = self.reports[0].run_config
        assert run_config is not None
        return run_config

    @property
    def slots(self) -> int:
        """The slots per site."""
        return max(self.run_config.slots.values())

    @property
    def last_step(self) -> int:
        """The step of the last report; later steps are not recorded."""
        return self.reports[-1].step

    @property
    def closed(self) -> bool:
        """Whether the end of the run is recorded."""
        return self.reports[-1].closing

    def check(self, host_params: int, sites: Mapping[str, SiteFacts]) -> None:
        """Raise ReplayRefused unless a model and its sites are those of the run."""
        run_config = self.run_config
        alike = (
            run_config.sites == sites
            if run_config.sites
            else run_config.slots.keys() == sites.keys()
        )
        if run_config.host_params != host_params or not alike:
            raise ReplayRefused(
                f"the recording of run {self.run_id} is of another model or of other sites "
                f"({', '.join(sorted(run_config.slots))}; {run_config.host_params} parameters); "
                "make the model as it was before it grew"
            )


def read_recording(
    file: str | Path, kernels: str | Path | None = None, settings: Settings | None = None
) -> RunRecording:
    """Return the run of a history file, with its kernels verified; no broker is asked.

    `kernels` is a folder that `esper history export --kernels` wrote, or a kernel store;
    without it the store of the settings is used. Settings default to the environment.

    Raises:
        HistoryUnreadable: the file is missing or is no history.
        ReplayRefused: the run is incomplete, or holds a field that this version does not know.
        NotConfigured: no trusted key is named.
        KernelMissing, StoreUnavailable, StoreUrlInvalid, ArtifactRefused: a kernel cannot be
            loaded, or its bytes or signature are wrong.
    """
    settings = settings or Settings()
    history = read_history(Path(file))
    reports = tuple(_in_order(history))
    decisions = tuple(_first(AdaptationDecision, history.run_id, history.decisions))
    outcomes = _outcomes(reports, decisions)
    plants = [
        plant
        for decision in decisions
        if _applied(outcomes.get(decision.decision_id))
        for plant in decision.plants
    ]
    planted = dict.fromkeys(plant.kernel_id for plant in plants)
    announced = {ready.kernel_id: ready for ready in _all(KernelReady, history.kernels)}
    if missing := [kernel_id for kernel_id in planted if kernel_id not in announced]:
        raise ReplayRefused(
            f"{file} has no announcement of kernel {missing[0][:12]}, which run {history.run_id} "
            f"planted; export it again: esper history export {history.run_id}"
        )
    return RunRecording(
        run_id=history.run_id,
        reports=reports,
        decisions=decisions,
        outcomes=outcomes,
        kernels=fetch_kernels(
            kernel_store_of(kernels, settings),
            trusted_key_of(settings),
            [announced[kernel_id] for kernel_id in planted],
            settings.store_credentials,
        ),
        trained=fetch_all_trained(
            kernel_store_of(kernels, settings),
            [
                (announced[plant.kernel_id], plant.trained_sha256)
                for plant in plants
                if plant.trained_sha256 is not None
            ],
            settings.store_credentials,
        ),
    )


def kernel_store_of(kernels: str | Path | None, settings: Settings) -> str:
    """Return `kernels` as a list of tiers, a folder as `file:`; without it, the settings' store."""
    if kernels is None:
        return settings.kernel_store_spec
    text = str(kernels)
    return text if text.partition(":")[0] in SCHEMES else f"file:{text}"


def _applied(outcome: DecisionOutcome | None) -> bool:
    return outcome is not None and outcome.status is OutcomeStatus.APPLIED


def _in_order(history: RunRecords) -> Iterator[SeedReport]:
    """Yield the reports, each once.

    Raises:
        ReplayRefused: one is missing.
    """
    for seq, report in enumerate(_first(SeedReport, history.run_id, history.reports)):
        if report.seq != seq:
            raise ReplayRefused(
                f"report {seq} of run {history.run_id} is missing, report {report.seq} "
                "is in its place"
            )
        if (report.run_config is None) != (seq > 0):
            raise ReplayRefused(
                f"report {seq} of run {history.run_id} has a run config in the wrong place"
            )
        yield report


def _outcomes(
    reports: Iterable[SeedReport], decisions: Iterable[AdaptationDecision]
) -> dict[str, DecisionOutcome]:
    """Return the outcome of each decision.

    Raises:
        ReplayRefused: a decision is missing, or decisions are not in the order of their steps.
    """
    found = {outcome.decision_id: outcome for report in reports for outcome in report.outcomes}
    known = [decision.decision_id for decision in decisions if decision.decision_id in found]
    if missing := found.keys() - set(known):
        first = next(element for element in found if element in missing)
        raise ReplayRefused(
            f"decision {first[:12]}, recorded as {found[first].status} at step "
            f"{found[first].step}, is not in the history"
        )
    steps = [found[entry].step for entry in known]
    for decision_id, step, before in zip(known[1:], steps[1:], steps, strict=False):
        if step < before:
            raise ReplayRefused(
                f"decision {decision_id[:12]} is recorded as {found[decision_id].status} at step "
                f"{step}, after one at step {before}"
            )
    return {decision_id: found[decision_id] for decision_id in known}


def _first(model: type[E], run_id: str, records: Iterable[Record]) -> Iterator[E]:
    """Yield events in order; an event that a restart sent twice is yielded once.

    Raises:
        ReplayRefused: two events of one number differ, or an event is of another run.
    """
    seen: dict[tuple[int, int], E] = {}
    for event in _all(model, records):
        assert isinstance(event, SeedReport | AdaptationDecision)
        if event.run_id != run_id:
            raise ReplayRefused(f"a record of run {run_id} belongs to run {event.run_id}")
        name = event.seq, getattr(event, "index", 0)
        if name not in seen:
            seen[name] = event
            yield event
        elif seen[name] != event:
            raise ReplayRefused(
                f"two records of run {run_id} with seq {event.seq} contradict each other; "
                "see: esper audit --history"
            )


def _all(model: type[E], records: Iterable[Record]) -> Iterator[E]:
    """Yield the decoded events of records.

    Raises:
        ReplayRefused: an event holds a value or field that this version does not know.
    """
    for record in records:
        where = record.place
        try:
            event = decode(model, record.value)
        except Undecodable as error:
            raise ReplayRefused(f"{where} cannot be decoded by this version: {error}") from error
        stored = orjson.loads(record.value or b"")
        if unknown := next(_unknown(stored, event.model_dump(mode="json"), ""), None):
            raise ReplayRefused(
                f"{where} has {unknown}, which this version does not know; replay the run with "
                "the version that recorded it"
            )
        yield event


def _unknown(stored: Any, known: Any, where: str) -> Iterator[str]:
    """Yield the path of every field that decoding ignored."""
    if isinstance(stored, dict) and isinstance(known, dict):
        for name, value in stored.items():
            path = f"{where}.{name}" if where else name
            if name in known:
                yield from _unknown(value, known[name], path)
            else:
                yield path
    if isinstance(stored, list) and isinstance(known, list):
        for index, (value, other) in enumerate(zip(stored, known, strict=False)):
            yield from _unknown(value, other, f"{where}[{index}]")
