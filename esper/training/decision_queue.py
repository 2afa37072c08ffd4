"""The mailbox of the training thread, and the queue of decisions that wait to be applied.

`on_decision` runs on other threads and only appends to the mailbox. Everything else runs on the
training thread, between two steps.
"""

import logging
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from esper.kernel import (
    Delivery,
    Kernel,
    KernelRefused,
    KernelsFailed,
    KernelsPrepared,
    KernelVerified,
)
from esper.topics.models import (
    AdaptationDecision,
    AuditionResult,
    DecisionOutcome,
    Incident,
    KernelReady,
    KernelRefusal,
    LoadableKernel,
    OutcomeStatus,
    RequestKind,
    RunRequest,
)
from esper.training.auditions import NO_AUDITIONS, Auditions, NoAuditions
from esper.training.lineage import RunHistory
from esper.training.probe import ProbeResult
from esper.training.ranks.decision_vote import DecisionVote, Verdict, Vote
from esper.training.reporter import Reporter
from esper.training.seed_manager import PlanRefused, SeedManager, kernels_needed

log = logging.getLogger("esper")

MAIL_LIMIT_S = 0.001
"""How long a training step reads messages; thousands at once are read in several steps."""

MAX_REASON = 500
"""Characters of a reason in a report."""


@dataclass(frozen=True, slots=True)
class DecisionArrived:
    """A decision, with the time of its record in milliseconds since the epoch."""

    decision: AdaptationDecision
    timestamp_ms: int


Message = DecisionArrived | RunRequest | AuditionResult | Delivery[Kernel]
"""What the mailbox holds."""


@dataclass(slots=True)
class QueuedDecision:
    """A decision in the queue; `kernels` is None while they are built.

    `refused` is why the decision cannot be applied; `reserved` is whether slots are kept for it.
    """

    arrived: DecisionArrived
    kernels: dict[str, Kernel] | None = None
    refused: str | None = None
    reserved: bool = True

    @property
    def awaits_kernels(self) -> bool:
        """Whether its kernels are still being built."""
        return self.kernels is None and self.refused is None

    def is_due(self, step: int) -> bool:
        """Return whether the decision can be applied or refused at this step."""
        ready = self.kernels is not None and self.arrived.decision.apply_at_step <= step
        return ready or self.refused is not None


class DecisionQueue:
    """Turns messages into changes of the seeds and into news for the next report.

    Decisions are applied in order of arrival, each once: repetitions are dropped by id. With a
    `decision_vote` all ranks apply a decision at the same step, or none does. `answered_seq` is the
    last report whose answer is complete. With `dry_run` every decision is withheld.
    """

    def __init__(
        self,
        seed_manager: SeedManager,
        reporter: Reporter,
        decision_vote: DecisionVote | None = None,
        *,
        auditions: Auditions | NoAuditions = NO_AUDITIONS,
        dry_run: bool = False,
    ) -> None:
        self.mailbox: deque[Message] = deque()
        self.queue: deque[QueuedDecision] = deque()
        self.run_history = RunHistory()
        self.answered_seq = -1
        self._seed_manager = seed_manager
        self._reporter = reporter
        self._decision_vote = decision_vote
        self._auditions = auditions
        self._dry_run = dry_run
        self._seen: set[str] = set()
        self._skip_next = 0

    def on_decision(self, decision: AdaptationDecision, timestamp_ms: int) -> None:
        """Put a decision into the mailbox; its kernels follow as messages of their own."""
        if decision.decision_id in self._seen:
            return
        self._seen.add(decision.decision_id)
        self.mailbox.append(DecisionArrived(decision, timestamp_ms))

    @property
    def has_work(self) -> bool:
        """Whether `process` would do anything."""
        return bool(self.mailbox or self.queue or self._decision_vote)

    def process(self, step: int) -> None:
        """Read the mailbox, then apply or refuse every decision that is due."""
        if self._decision_vote is not None:
            self._process_by_vote(self._decision_vote, step)
            return
        self._read_mailbox(step)
        while self.queue and self.queue[0].is_due(step):
            self._conclude(self.queue.popleft(), step)

    def _read_mailbox(self, step: int) -> None:
        """Handle messages for at most `MAIL_LIMIT_S`, at least one; the rest waits for a step."""
        if not self.mailbox:
            return
        deadline = time.perf_counter() + MAIL_LIMIT_S
        while self.mailbox:
            self._handle(self.mailbox.popleft(), step)
            if time.perf_counter() > deadline:
                return

    def empty_mailbox(self, step: int) -> None:
        """Handle every message: decisions with operations join the queue."""
        while self.mailbox:
            self._handle(self.mailbox.popleft(), step)

    def take_seal(self) -> None:
        """After the last step: read only decisions, to find the one that seals the run."""
        while self.mailbox:
            message = self.mailbox.popleft()
            if isinstance(message, DecisionArrived):
                self.note_decision(message.decision)

    def stop_voting(self, *, failed: bool) -> None:
        """End the vote of all ranks, if there is one."""
        if self._decision_vote is not None:
            self._decision_vote.close(failed=failed)

    def restore(self, done: Iterable[str], next_seq: int) -> None:
        """Continue after a checkpoint: drop decisions and requests with ids in `done`.

        The answer to the last report before `next_seq` is accepted again.
        """
        self._seen.update(done)
        self.answered_seq = next_seq - 2

    def repeat(
        self, decision: AdaptationDecision, kernels: Mapping[str, Kernel], outcome: DecisionOutcome
    ) -> None:
        """Repeat a recorded decision with its recorded outcome.

        Raises:
            PlanRefused: the decision was applied then and cannot be applied now.
        """
        if outcome.status is OutcomeStatus.APPLIED:
            self._seed_manager.reserve(decision, outcome.step)
            self._seed_manager.apply(decision, kernels, outcome.step)
            self._note_merged(decision)
        self.note_decision(decision)
        self.run_history.outcomes[outcome.decision_id] = outcome

    def note_decision(self, decision: AdaptationDecision) -> None:
        """Add a decision to the history, unless it only answers a report or a request."""
        if decision.request_id is not None and not decision.operations:
            return
        if decision.strategy is None and not decision.operations:
            self.answered_seq = max(self.answered_seq, decision.seq)
            if decision.seq != self._reporter.closing_seq:
                return
            self.run_history.sealed = True
        self.run_history.decisions.append(decision)

    def note_incident(self, incident: Incident) -> None:
        """Add an incident to the history and to the next report."""
        self.run_history.incidents.append(incident)
        self._reporter.news.add(incident)

    def planted_at(self, decision_id: str) -> int:
        """Return the step at which a decision was applied; 0 if that is unknown."""
        outcome = self.run_history.outcomes.get(decision_id)
        return 0 if outcome is None else outcome.step

    def note_contributions(self, measured: ProbeResult) -> None:
        """Keep the latest contribution of each seed on trial in the history."""
        for (site, index), contribution in measured.contributions.items():
            planted_by = self._seed_manager.sites[site].slots[index].decision_id
            if planted_by is not None:
                self.run_history.contributions[planted_by, site, index] = contribution

    def _process_by_vote(self, decision_vote: DecisionVote, step: int) -> None:
        verdict = decision_vote.verdict()
        self.empty_mailbox(step)
        if verdict is not None:
            decision_vote.start_next()
            self._follow(decision_vote, verdict, step)
        decision_vote.vote(self._vote(step))

    def _follow(self, decision_vote: DecisionVote, verdict: Verdict, step: int) -> None:
        """Do with the oldest decision what all ranks do at this step."""
        if verdict is Verdict.APPLY:
            self._conclude(self.queue.popleft(), step)
            return
        queued = self.queue.popleft() if self.queue else None
        own = "the decision did not arrive in time"
        if queued is not None:
            late = "" if queued.is_due(step) else "its kernels did not arrive in time"
            own = queued.refused or late
        # Rare, and the only place where ranks wait for each other.
        reason = decision_vote.reasons(own)
        if queued is None:
            self._skip_next += 1
            return
        queued.refused = reason
        self._conclude(queued, step)

    def _vote(self, step: int) -> Vote:
        if not (self.queue and self.queue[0].is_due(step)):
            return Vote()
        queued = self.queue[0]
        if queued.refused is None:
            try:
                self._seed_manager.check(queued.arrived.decision, queued.kernels or {})
            except PlanRefused as error:
                queued.refused = str(error)
        return Vote(able=queued.refused is None, unable=queued.refused is not None)

    def _handle(self, message: Message, step: int) -> None:
        match message:
            case KernelVerified(ready):
                self._on_kernel(ready)
            case KernelRefused(kernel_id, reason):
                log.warning("kernel %s is refused: %s", kernel_id[:12], reason)
                self._warn_of_planted(kernel_id)
                refusal = KernelRefusal(kernel_id=kernel_id, reason=reason[:MAX_REASON])
                self._reporter.news.add(refusal)
            case DecisionArrived(decision):
                self._enqueue(message, step)
                if decision.auditions and not self._dry_run:
                    self._auditions.request(decision)
            case AuditionResult():
                self._auditions.note(message)
                self._reporter.news.add(message)
            case RunRequest():
                self._on_request(message)
            case KernelsPrepared(token, kernels):
                for queued in self._queued(token):
                    queued.kernels = dict(kernels)
            case KernelsFailed(token, reason):
                for queued in self._queued(token):
                    queued.refused = reason

    def _queued(self, decision_id: str) -> list[QueuedDecision]:
        return [
            queued for queued in self.queue if queued.arrived.decision.decision_id == decision_id
        ]

    def _on_kernel(self, ready: KernelReady) -> None:
        """Report a kernel as loadable at each site that it fits, once."""
        if ready.kernel_id in self.run_history.kernels:
            return
        self.run_history.kernels[ready.kernel_id] = ready
        for site in self._seed_manager.sites.values():
            if site.signature == ready.site_signature:
                self._reporter.news.add(
                    LoadableKernel(
                        kernel_id=ready.kernel_id,
                        site=site.name,
                        blueprint_id=ready.blueprint_id,
                        category=ready.category,
                        params=ready.params,
                        cost=ready.cost,
                    )
                )

    def _warn_of_planted(self, kernel_id: str) -> None:
        """Log where a refused kernel was planted before; it stays until a decision culls it."""
        for site in self._seed_manager.sites.values():
            for slot in site.slots:
                if slot.planted is not None and slot.planted.kernel_id == kernel_id:
                    log.error(
                        "it is planted and stays: remove it with `esper seed cull %s %s/%d`",
                        self._reporter.run_id,
                        slot.site,
                        slot.index,
                    )

    def _on_request(self, request: RunRequest) -> None:
        """Report a manual request, once; pausing and resuming take effect immediately."""
        if request.request_id in self._seen:
            return
        self._seen.add(request.request_id)
        self._reporter.news.add(request)
        if request.kind in (RequestKind.PAUSE, RequestKind.RESUME):
            self._reporter.news.paused = request.kind is RequestKind.PAUSE

    def _enqueue(self, arrived: DecisionArrived, step: int) -> None:
        decision = arrived.decision
        self.note_decision(decision)
        if not decision.operations:
            return
        if self._dry_run:
            self._record_outcome(arrived, OutcomeStatus.WITHHELD, step)
            return
        if self._skip_next:
            self._skip_next -= 1
            reason = "the decision reached this rank too late"
            self._record_outcome(arrived, OutcomeStatus.REFUSED, step, reason)
            return
        queued = QueuedDecision(arrived, None if kernels_needed(decision) else {})
        try:
            self._seed_manager.reserve(decision, step)
        except PlanRefused as error:
            queued.refused, queued.reserved = str(error), False
        self.queue.append(queued)

    def _conclude(self, queued: QueuedDecision, step: int) -> None:
        """Apply a decision that is due, or refuse it and release its slots."""
        decision = queued.arrived.decision
        if queued.refused is None:
            try:
                self._apply(decision, queued.kernels or {}, step)
            except PlanRefused as error:
                queued.refused = str(error)
        if queued.refused is None:
            self._note_merged(decision)
            self._record_outcome(queued.arrived, OutcomeStatus.APPLIED, step)
            return
        if queued.reserved:
            self._seed_manager.release(decision, step)
        self._record_outcome(queued.arrived, OutcomeStatus.REFUSED, step, queued.refused)

    def _apply(
        self, decision: AdaptationDecision, kernels: Mapping[str, Kernel], step: int
    ) -> None:
        if self._decision_vote is None:
            self._seed_manager.apply(decision, kernels, step)
        else:
            # Waits for the other ranks once per plan: all ranks keep the plan, or none does.
            self._seed_manager.apply(decision, kernels, step, self._decision_vote.reasons)

    def _note_merged(self, decision: AdaptationDecision) -> None:
        for operation in decision.operations:
            slot = self._seed_manager.sites[operation.site].slots[operation.slot]
            if slot.merged_sha256 is not None and slot.decision_id is not None:
                self.run_history.merged.add((slot.decision_id, slot.site, slot.index))

    def _record_outcome(
        self, arrived: DecisionArrived, status: OutcomeStatus, step: int, reason: str | None = None
    ) -> None:
        decision_id = arrived.decision.decision_id
        if reason is not None:
            log.warning("decision %s is refused: %s", decision_id[:12], reason)
        outcome = DecisionOutcome(
            decision_id=decision_id,
            status=status,
            step=step,
            reason=reason[:MAX_REASON] if reason else None,
            latency_ms=time.time() * 1000 - arrived.timestamp_ms,
        )
        self.run_history.outcomes[decision_id] = outcome
        self._reporter.news.add(outcome)
