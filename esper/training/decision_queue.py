"""What reaches the training thread: one mailbox, and what is done with each piece of mail.

The `hear_*` functions run on other threads and only pass things on; the `take*` functions run on
the training thread, between two steps, and are the only ones that touch the model.
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
    DecisionOutcome,
    Incident,
    KernelReady,
    KernelRefusal,
    LoadableKernel,
    OutcomeStatus,
    RequestKind,
    RunRequest,
)
from esper.training.lineage import RunHistory
from esper.training.probe import ProbeResult
from esper.training.ranks.decision_vote import DecisionVote, Verdict, Vote
from esper.training.reporter import Reporter
from esper.training.seed_manager import PlanRefused, SeedManager, kernels_needed

log = logging.getLogger("esper")


@dataclass(frozen=True, slots=True)
class DecisionArrived:
    """A decision, with the time of its record in milliseconds since the epoch."""

    decision: AdaptationDecision
    timestamp_ms: int


FrameDecoder = DecisionArrived | RunRequest | Delivery[Kernel]


@dataclass(slots=True)
class QueuedDecision:
    """A decision in the queue; `kernels` is None while they are built.

    `refused` says why it cannot be applied; `reserved` is whether slots are kept for it.
    """

    arrived: DecisionArrived
    kernels: dict[str, Kernel] | None = None
    refused: str | None = None
    reserved: bool = True

    @property
    def awaits_kernels(self) -> bool:
        """Whether kernels are still built for it."""
        return self.kernels is None and self.refused is None

    def settled(self, step: int) -> bool:
        """Whether it is known what becomes of it, and its step has come."""
        due = self.kernels is not None and self.arrived.decision.apply_at_step <= step
        return due or self.refused is not None


class DecisionQueue:
    """Turns mail into changes of the garden and notes for the next report.

    Decisions are applied in the order in which they came, each once: a repetition is dropped by
    its id. With a council all ranks apply a decision at the same step, or none does.
    `answered_seq` is the last report whose answer has come to its end. A `dry_run` withholds every
    decision: the model stays as it is.
    """

    def __init__(
        self,
        seed_manager: SeedManager,
        reporter: Reporter,
        decision_vote: DecisionVote | None = None,
        *,
        dry_run: bool = False,
    ) -> None:
        self.mailbox: deque[FrameDecoder] = deque()
        self.run_history = RunHistory()
        self._seed_manager = seed_manager
        self._reporter = reporter
        self._decision_vote = decision_vote
        self._dry_run = dry_run
        self._passed_over = 0
        self._heard: set[str] = set()
        self.queue: deque[QueuedDecision] = deque()
        self.answered_seq = -1

    def on_decision(self, decision: AdaptationDecision, timestamp_ms: int) -> None:
        """Leave a decision for the training thread; its kernels follow as mail of their own."""
        if decision.decision_id in self._heard:
            return
        self._heard.add(decision.decision_id)
        self.mailbox.append(DecisionArrived(decision, timestamp_ms))

    @property
    def stirs(self) -> bool:
        """Whether there is anything to take at this step."""
        return bool(self.mailbox or self.queue or self._decision_vote)

    def take(self, step: int) -> None:
        """Work through the mailbox, then apply every decision whose turn has come."""
        if self._decision_vote is not None:
            self._take_together(self._decision_vote, step)
            return
        self.sort(step)
        while self.queue and self.queue[0].settled(step):
            self._conclude(self.queue.popleft(), step)

    def sort(self, step: int) -> None:
        """Work through the mailbox: what is to be applied joins the queue."""
        while self.mailbox:
            self._handle(self.mailbox.popleft(), step)

    def take_seal(self) -> None:
        """After the last step: look only for the decision that seals the run."""
        while self.mailbox:
            decoder = self.mailbox.popleft()
            if isinstance(decoder, DecisionArrived):
                self.note_decision(decoder.decision)

    def expect_again(self, taken: Iterable[str], next_seq: int) -> None:
        """After a checkpoint: drop the decisions with these ids, which are done with.

        The answer to the last report before `next_seq` is heard again.
        """
        self._heard.update(taken)
        self.answered_seq = next_seq - 2

    def repeat(
        self, decision: AdaptationDecision, kernels: Mapping[str, Kernel], outcome: DecisionOutcome
    ) -> None:
        """Do again what was done with a decision, whose outcome is on record.

        Raises:
            PlanRefused: it cannot be applied now.
        """
        if outcome.status is OutcomeStatus.APPLIED:
            self._seed_manager.reserve(decision, outcome.step)
            self._seed_manager.apply(decision, kernels, outcome.step)
            self._note_merged(decision)
        self.note_decision(decision)
        self.run_history.outcomes[outcome.decision_id] = outcome

    def note_decision(self, decision: AdaptationDecision) -> None:
        """Remember a decision, unless it is a word to who waits and no part of a lineage."""
        if decision.request_id is not None and not decision.operations:
            return
        if decision.strategy is None and not decision.operations:
            self.answered_seq = max(self.answered_seq, decision.seq)
            if decision.seq != self._reporter.closing_seq:
                return
            self.run_history.sealed = True
        self.run_history.decisions.append(decision)

    def note_incident(self, incident: Incident) -> None:
        """Tell of what the governor did, and remember it."""
        self.run_history.incidents.append(incident)
        self._reporter.note_incident(incident)

    def planted_at(self, decision_id: str) -> int:
        """Return the step at which a decision was applied; 0 where it is not known."""
        outcome = self.run_history.outcomes.get(decision_id)
        return 0 if outcome is None else outcome.step

    def note_contributions(self, measured: ProbeResult) -> None:
        """Remember what each seed on trial was last seen to contribute."""
        for (site, index), contribution in measured.contributions.items():
            planted_by = self._seed_manager.sites[site].slots[index].decision_id
            if planted_by is not None:
                self.run_history.contributions[planted_by, site, index] = contribution

    def _take_together(self, decision_vote: DecisionVote, step: int) -> None:
        verdict = decision_vote.verdict()
        self.sort(step)
        if verdict is not None:
            decision_vote.concluded()
            self._obey(decision_vote, verdict, step)
        decision_vote.vote(self._ballot(step))

    def _obey(self, decision_vote: DecisionVote, verdict: Verdict, step: int) -> None:
        """Do with the oldest decision what all ranks do at this step."""
        if verdict is Verdict.APPLY:
            self._conclude(self.queue.popleft(), step)
            return
        waiting = self.queue.popleft() if self.queue else None
        own = "it has not come in time"
        if waiting is not None:
            late = None if waiting.settled(step) else "it has not its kernels in time"
            own = waiting.refused or late or ""
        # Rare, and the one place where ranks wait for each other.
        reason = decision_vote.reasons(own)
        if waiting is None:
            self._passed_over += 1
            return
        waiting.refused = reason
        self._conclude(waiting, step)

    def _ballot(self, step: int) -> Vote:
        if not (self.queue and self.queue[0].settled(step)):
            return Vote()
        waiting = self.queue[0]
        if waiting.refused is None:
            try:
                self._seed_manager.check(waiting.arrived.decision, waiting.kernels or {})
            except PlanRefused as error:
                waiting.refused = str(error)
        return Vote(able=waiting.refused is None, unable=waiting.refused is not None)

    def _handle(self, decoder: FrameDecoder, step: int) -> None:
        match decoder:
            case KernelVerified(ready):
                self._offer(ready)
            case KernelRefused(kernel_id, reason):
                log.warning("kernel %s is refused: %s", kernel_id[:12], reason)
                self._reporter.note_refusal(KernelRefusal(kernel_id=kernel_id, reason=reason[:500]))
            case DecisionArrived(decision):
                self._admit(decoder, decision, step)
            case RunRequest():
                self._note_request(decoder)
            case KernelsPrepared(token, kernels):
                for waiting in self.queue:
                    if waiting.arrived.decision.decision_id == token:
                        waiting.kernels = dict(kernels)
            case KernelsFailed(token, reason):
                self._abandon(token, reason)

    def _offer(self, ready: KernelReady) -> None:
        if ready.kernel_id in self.run_history.kernels:
            return
        self.run_history.kernels[ready.kernel_id] = ready
        for site in self._seed_manager.sites.values():
            if site.signature == ready.site_signature:
                self._reporter.note_kernel(
                    LoadableKernel(
                        kernel_id=ready.kernel_id,
                        site=site.name,
                        blueprint_id=ready.blueprint_id,
                        category=ready.category,
                        params=ready.params,
                        cost=ready.cost,
                    )
                )

    def _note_request(self, request: RunRequest) -> None:
        """Have the next report tell of it, once; to pause and to resume are done at once."""
        if request.request_id in self._heard:
            return
        self._heard.add(request.request_id)
        self._reporter.note_request(request)
        if request.kind in (RequestKind.PAUSE, RequestKind.RESUME):
            self._reporter.paused = request.kind is RequestKind.PAUSE

    def _admit(self, decoder: DecisionArrived, decision: AdaptationDecision, step: int) -> None:
        self.note_decision(decision)
        if not decision.operations:
            return
        if self._dry_run:
            self._answer(decoder, OutcomeStatus.WITHHELD, step)
            return
        if self._passed_over:
            self._passed_over -= 1
            reason = "this rank heard of it too late"
            self._answer(decoder, OutcomeStatus.REFUSED, step, reason)
            return
        waiting = QueuedDecision(decoder, None if kernels_needed(decision) else {})
        try:
            self._seed_manager.reserve(decision, step)
        except PlanRefused as error:
            waiting.refused, waiting.reserved = str(error), False
        self.queue.append(waiting)

    def _abandon(self, token: str, reason: str) -> None:
        for waiting in self.queue:
            if waiting.arrived.decision.decision_id == token:
                waiting.refused = reason

    def _conclude(self, waiting: QueuedDecision, step: int) -> None:
        """Apply a decision that is settled, or refuse it and give its slots back."""
        decision = waiting.arrived.decision
        if waiting.refused is None:
            try:
                self._apply(decision, waiting.kernels or {}, step)
            except PlanRefused as error:
                waiting.refused = str(error)
        if waiting.refused is None:
            self._note_merged(decision)
            self._answer(waiting.arrived, OutcomeStatus.APPLIED, step)
            return
        if waiting.reserved:
            self._seed_manager.release(decision, step)
        self._answer(waiting.arrived, OutcomeStatus.REFUSED, step, waiting.refused)

    def _apply(
        self, decision: AdaptationDecision, kernels: Mapping[str, Kernel], step: int
    ) -> None:
        if self._decision_vote is None:
            self._seed_manager.apply(decision, kernels, step)
        else:
            # Waits for the other ranks, once for each plan: they keep it together, or none does.
            self._seed_manager.apply(decision, kernels, step, self._decision_vote.reasons)

    def _note_merged(self, decision: AdaptationDecision) -> None:
        for operation in decision.operations:
            slot = self._seed_manager.sites[operation.site].slots[operation.slot]
            if slot.merged_sha256 is not None and slot.decision_id is not None:
                self.run_history.merged.add((slot.decision_id, slot.site, slot.index))

    def _answer(
        self, decoder: DecisionArrived, status: OutcomeStatus, step: int, reason: str | None = None
    ) -> None:
        if reason is not None:
            log.warning("decision %s is refused: %s", decoder.decision.decision_id[:12], reason)
        outcome = DecisionOutcome(
            decision_id=decoder.decision.decision_id,
            status=status,
            step=step,
            reason=reason[:500] if reason else None,
            latency_ms=time.time() * 1000 - decoder.timestamp_ms,
        )
        self.run_history.outcomes[outcome.decision_id] = outcome
        self._reporter.note_outcome(outcome)
