"""Asking something of a run that trains, and hearing what became of it."""

import queue
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from esper.topics.bus import Bus, Record, read_topic
from esper.topics.catalog import ADAPTATION_DECISION, RUN_CONTROL, SEED_METRICS, TRAINING_RUN
from esper.topics.codec import Undecodable, decode, sha256_of
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
NAMED: Final = 5
"""Runs that are named where one is unknown; more would hide the newest."""


class RequestRefused(ValueError):
    """Something that cannot be asked; the message says why, and what can be."""


class Answer(StrEnum):
    """What became of a request."""

    DONE = "done"
    REFUSED = "refused"
    UNANSWERED = "unanswered"


@dataclass(frozen=True, slots=True)
class RequestResult:
    """What became of a request: in one word, in words for a person, and at which step."""

    request: RunRequest
    answer: Answer
    words: str
    step: int | None = None


def find_open_run(bootstrap_servers: str, run_id: str) -> TrainingRun:
    """Return an open run.

    Raises:
        AskingRefused: there is none of that id, or it is closed.
    """
    announced: dict[str, TrainingRun] = {}
    for record in read_topic(bootstrap_servers, TRAINING_RUN.name):
        try:
            run = decode(TrainingRun, record.value)
        except Undecodable:
            continue
        announced[run.run_id] = run
    found = announced.get(run_id)
    if found is None:
        opened = [run.run_id for run in announced.values() if run.status is RunStatus.OPEN]
        others = f"open: {', '.join(opened[-NAMED:])}" if opened else "no run is open"
        raise RequestRefused(f"there is no run {run_id!r}; {others}")
    if found.status is RunStatus.CLOSED:
        raise RequestRefused(f"run {run_id} is closed; nothing can be asked of it any more")
    return found


def new_request(
    run: TrainingRun, kind: RequestKind, site: str | None = None, slot: int | None = None
) -> RunRequest:
    """Return a request with an id of its own.

    Raises:
        AskingRefused: the run does not grow at that site.
    """
    if site is not None and site not in run.sites:
        raise RequestRefused(
            f"run {run.run_id} does not grow at {site!r}; its sites: {', '.join(run.sites)}"
        )
    return RunRequest(
        request_id=sha256_of(secrets.token_bytes(32)),
        run_id=run.run_id,
        kind=kind,
        site=site,
        slot=slot,
    )


def send_request(bootstrap_servers: str, request: RunRequest, timeout_s: float) -> RequestResult:
    """Publish a request, and return what became of it, or how far it had come by the timeout.

    Raises:
        BrokerUnreachable, TopicMismatch: there is no broker, or it is not set up.
    """
    arrived: queue.SimpleQueue[Record] = queue.SimpleQueue()
    bus = Bus.connect(bootstrap_servers, source="/esper/cli")
    try:
        key = request.run_id.encode()
        for topic in (SEED_METRICS, ADAPTATION_DECISION):
            bus.consume(topic.name, arrived.put, key=key)
        bus.publish(RUN_CONTROL, request).result(CONFIRM_TIMEOUT_S)
        return _await(request, arrived.get, timeout_s)
    finally:
        bus.close()


def _await(
    request: RunRequest, next_record: Callable[[bool, float], Record], timeout_s: float
) -> RequestResult:
    deadline = time.monotonic() + timeout_s
    progress = _Progress(request)
    while (left_s := deadline - time.monotonic()) > 0:
        try:
            record = next_record(True, left_s)
        except queue.Empty:
            break
        if (became := progress.after(record)) is not None:
            return became
    return progress.unanswered(timeout_s)


class _Progress:
    """How far a request has come: heard by the trainer, decided on, answered.

    Records of two topics come in no order between them: a report may be seen after the decision
    that it led to.
    """

    def __init__(self, request: RunRequest) -> None:
        self._request = request
        self._heard_at: int | None = None
        self._decision: AdaptationDecision | None = None
        self._outcomes: dict[str, DecisionOutcome] = {}
        self._decided_seq = -1
        self._closing: SeedReport | None = None

    def after(self, record: Record) -> RequestResult | None:
        """Return what became of the request, once that is known."""
        try:
            if record.topic == ADAPTATION_DECISION.name:
                self._read_decision(decode(AdaptationDecision, record.value))
            else:
                self._read_report(decode(SeedReport, record.value))
        except Undecodable:
            return None
        return self._conclusion() or self._ended()

    def unanswered(self, timeout_s: float) -> RequestResult:
        """Return how far it came within the timeout."""
        within = f"within {timeout_s:g} s"
        if self._closing is not None:
            words = f"the run has ended at step {self._closing.step}, and is not sealed {within}"
        elif self._decision is not None:
            words = f"decided, and not answered by the trainer {within}; does it train?"
        elif self._heard_at is not None:
            words = f"heard at step {self._heard_at}, and not decided {within}; "
            words += "do the bandit workers run?"
        else:
            words = f"no trainer has heard of it {within}; does one train this run?"
        return RequestResult(self._request, Answer.UNANSWERED, words, self._heard_at)

    def _read_decision(self, decision: AdaptationDecision) -> None:
        self._decided_seq = max(self._decided_seq, decision.seq)
        if decision.request_id == self._request.request_id:
            self._decision = decision

    def _read_report(self, report: SeedReport) -> None:
        if any(each.request_id == self._request.request_id for each in report.requests):
            self._heard_at = report.step
        self._outcomes.update({outcome.decision_id: outcome for outcome in report.outcomes})
        if report.closing:
            self._closing = report

    def _ended(self) -> RequestResult | None:
        """Return that the run is over; all that was ever decided comes before its seal."""
        if self._closing is None or self._decided_seq < self._closing.seq:
            return None
        step = self._closing.step
        words = f"the run has ended at step {step}, before it was done"
        return RequestResult(self._request, Answer.REFUSED, words, step)

    def _conclusion(self) -> RequestResult | None:
        decision = self._decision
        if decision is None:
            return None
        if not decision.operations:
            # The decision is to be applied in the step after the report that told of the request.
            return self._without_operations(decision, decision.apply_at_step - 1)
        outcome = self._outcomes.get(decision.decision_id)
        if outcome is None:
            return None
        match outcome.status:
            case OutcomeStatus.APPLIED:
                what = ", ".join(f"{each.site}/{each.slot}" for each in decision.operations)
                words = f"applied at step {outcome.step}: {what}"
                return RequestResult(self._request, Answer.DONE, words, outcome.step)
            case OutcomeStatus.WITHHELD:
                words = f"withheld at step {outcome.step}: the run is a dry run"
            case OutcomeStatus.REFUSED:
                words = f"refused at step {outcome.step} because {outcome.reason}"
        return RequestResult(self._request, Answer.REFUSED, words, outcome.step)

    def _without_operations(self, decision: AdaptationDecision, step: int) -> RequestResult:
        if self._request.site is None:
            done = "paused" if self._request.kind is RequestKind.PAUSE else "resumed"
            return RequestResult(self._request, Answer.DONE, f"{done} at step {step}", step)
        _, _, why = decision.reason.partition("; not done: ")
        return RequestResult(self._request, Answer.REFUSED, f"refused because {why}", step)
