"""Send a manual request to a running training and wait for its result."""

import queue
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from esper.errors import EsperError
from esper.topics.bus import Bus, Record, read_topic
from esper.topics.catalog import ADAPTATION_DECISION, RUN_CONTROL, SEED_METRICS, TRAINING_RUN
from esper.topics.codec import Undecodable, decode, sha256_of
from esper.topics.connection import Broker
from esper.topics.models import (
    AdaptationDecision,
    DecisionOutcome,
    OutcomeStatus,
    RequestKind,
    RunRequest,
    RunStatus,
    SeedReport,
    TrainingRun,
)

CONFIRM_TIMEOUT_S: Final = 10.0
MAX_LISTED: Final = 5
"""Open runs listed in the message about an unknown run: the newest."""


class InvalidRequest(EsperError, ValueError):
    """The request names an unknown or closed run, or an unknown site."""


class RequestStatus(StrEnum):
    """How a request ended."""

    DONE = "done"
    REFUSED = "refused"
    UNANSWERED = "unanswered"


@dataclass(frozen=True, slots=True)
class RequestResult:
    """The result of a request: its status, a message, and the step of the result."""

    request: RunRequest
    status: RequestStatus
    message: str
    step: int | None = None


def find_open_run(broker: Broker, run_id: str) -> TrainingRun:
    """Return the latest event of an open run.

    Raises:
        AskingRefused: no run has that id, or it is closed.
    """
    announced: dict[str, TrainingRun] = {}
    for record in read_topic(broker, TRAINING_RUN.name):
        try:
            run = decode(TrainingRun, record.value)
        except Undecodable:
            continue
        announced[run.run_id] = run
    found = announced.get(run_id)
    if found is None:
        opened = [run.run_id for run in announced.values() if run.status is RunStatus.OPEN]
        others = f"open: {', '.join(opened[-MAX_LISTED:])}" if opened else "no run is open"
        raise InvalidRequest(f"no run {run_id!r}; {others}")
    if found.status is RunStatus.CLOSED:
        raise InvalidRequest(f"run {run_id} is closed; name an open run")
    return found


def new_request(
    run: TrainingRun, kind: RequestKind, site: str | None = None, slot: int | None = None
) -> RunRequest:
    """Return a request with a new id.

    Raises:
        AskingRefused: the run has no such site.
    """
    if site is not None and site not in run.sites:
        raise InvalidRequest(
            f"run {run.run_id} has no site {site!r}; its sites: {', '.join(run.sites)}"
        )
    return RunRequest(
        request_id=sha256_of(secrets.token_bytes(32)),
        run_id=run.run_id,
        kind=kind,
        site=site,
        slot=slot,
    )


def send_request(broker: Broker, request: RunRequest, timeout_s: float) -> RequestResult:
    """Publish a request; return its result, or its progress when the timeout is over.

    Raises:
        BrokerUnreachable: no broker answers.
        TopicMismatch: the topics are missing or have wrong partition counts.
    """
    arrived: queue.SimpleQueue[Record] = queue.SimpleQueue()
    bus = Bus.connect(broker, source="/esper/cli")
    try:
        key = request.run_id.encode()
        for topic in (SEED_METRICS, ADAPTATION_DECISION):
            bus.consume(topic.name, arrived.put, key=key)
        bus.publish(RUN_CONTROL, request).result(CONFIRM_TIMEOUT_S)
        return _wait_for_result(request, arrived.get, timeout_s)
    finally:
        bus.close()


def _wait_for_result(
    request: RunRequest, next_record: Callable[[bool, float], Record], timeout_s: float
) -> RequestResult:
    deadline = time.monotonic() + timeout_s
    progress = _RequestProgress(request)
    while (left_s := deadline - time.monotonic()) > 0:
        try:
            record = next_record(True, left_s)
        except queue.Empty:
            break
        if (result := progress.after(record)) is not None:
            return result
    return progress.unanswered(timeout_s)


class _RequestProgress:
    """Tracks a request: read by the trainer, decided, applied.

    Records of different topics have no common order: a report may arrive after its decision.
    """

    def __init__(self, request: RunRequest) -> None:
        self._request = request
        self._read_at: int | None = None
        self._decision: AdaptationDecision | None = None
        self._outcomes: dict[str, DecisionOutcome] = {}
        self._decided_seq = -1
        self._closing: SeedReport | None = None

    def after(self, record: Record) -> RequestResult | None:
        """Return the result of the request, or None while it is open."""
        try:
            if record.topic == ADAPTATION_DECISION.name:
                self._read_decision(decode(AdaptationDecision, record.value))
            else:
                self._read_report(decode(SeedReport, record.value))
        except Undecodable:
            return None
        return self._decided_result() or self._closed_result()

    def unanswered(self, timeout_s: float) -> RequestResult:
        """Return the progress at the end of the timeout."""
        within = f"within {timeout_s:g} s"
        if self._closing is not None:
            message = f"the run ended at step {self._closing.step} but was not sealed {within}"
        elif self._decision is not None:
            message = f"decided, but not applied by the trainer {within}; check that it trains"
        elif self._read_at is not None:
            message = f"read at step {self._read_at}, but not decided {within}; "
            message += "check that the bandit workers run"
        else:
            message = f"not read by a trainer {within}; check that the run is training"
        return RequestResult(self._request, RequestStatus.UNANSWERED, message, self._read_at)

    def _read_decision(self, decision: AdaptationDecision) -> None:
        self._decided_seq = max(self._decided_seq, decision.seq)
        if decision.request_id == self._request.request_id:
            self._decision = decision

    def _read_report(self, report: SeedReport) -> None:
        if any(r.request_id == self._request.request_id for r in report.requests):
            self._read_at = report.step
        self._outcomes.update({outcome.decision_id: outcome for outcome in report.outcomes})
        if report.closing:
            self._closing = report

    def _closed_result(self) -> RequestResult | None:
        """Return a refusal once the run is sealed: no decision comes after the seal."""
        if self._closing is None or self._decided_seq < self._closing.seq:
            return None
        step = self._closing.step
        message = f"the run ended at step {step} before the request was applied"
        return RequestResult(self._request, RequestStatus.REFUSED, message, step)

    def _decided_result(self) -> RequestResult | None:
        decision = self._decision
        if decision is None:
            return None
        if not decision.operations:
            # The decision applies in the step after the report that has the request.
            return self._result_without_operations(decision, decision.apply_at_step - 1)
        outcome = self._outcomes.get(decision.decision_id)
        if outcome is None:
            return None
        match outcome.status:
            case OutcomeStatus.APPLIED:
                slots = ", ".join(f"{o.site}/{o.slot}" for o in decision.operations)
                message = f"applied at step {outcome.step}: {slots}"
                return RequestResult(self._request, RequestStatus.DONE, message, outcome.step)
            case OutcomeStatus.WITHHELD:
                message = f"withheld at step {outcome.step}: the run is a dry run"
            case OutcomeStatus.REFUSED:
                message = f"refused at step {outcome.step} because {outcome.reason}"
        return RequestResult(self._request, RequestStatus.REFUSED, message, outcome.step)

    def _result_without_operations(self, decision: AdaptationDecision, step: int) -> RequestResult:
        if self._request.site is None:
            done = "paused" if self._request.kind is RequestKind.PAUSE else "resumed"
            return RequestResult(self._request, RequestStatus.DONE, f"{done} at step {step}", step)
        _, _, why = decision.reason.partition("; not done: ")
        return RequestResult(self._request, RequestStatus.REFUSED, f"refused because {why}", step)
