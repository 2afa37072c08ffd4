"""What reaches the training thread: one mailbox, and what is done with each piece of mail.

The `hear_*` functions run on other threads and only pass things on; the `take*` functions run on
the training thread, between two steps, and are the only ones that touch the model.
"""

import logging
import time
from collections import deque
from dataclasses import dataclass

from esper.kernel import Kernel
from esper.kernel.loader import (
    Delivery,
    KernelRefused,
    KernelsPrepared,
    KernelsUnprepared,
    KernelVerified,
)
from esper.training.garden import Garden, PlanRefused, kernels_needed
from esper.training.lineage import Ancestry
from esper.training.probe import Measured
from esper.training.reporter import Reporter
from topics.models import (
    AdaptationDecision,
    KernelReady,
    KernelRefusal,
    LoadableKernel,
    Outcome,
    OutcomeStatus,
)

log = logging.getLogger("esper")


@dataclass(frozen=True, slots=True)
class DecisionArrived:
    """A decision, with the time of its record in milliseconds since the epoch."""

    decision: AdaptationDecision
    timestamp_ms: int


Mail = DecisionArrived | Delivery[Kernel]


@dataclass(slots=True)
class Waiting:
    """A decision in the queue; `kernels` is None while they are built."""

    arrived: DecisionArrived
    kernels: dict[str, Kernel] | None = None


class Inbox:
    """Turns mail into changes of the garden and notes for the next report.

    Decisions are applied in the order in which they came, each once: a repetition is dropped by
    its id.
    """

    def __init__(self, garden: Garden, reporter: Reporter) -> None:
        self.mailbox: deque[Mail] = deque()
        self.ancestry = Ancestry()
        self._garden = garden
        self._reporter = reporter
        self._heard: set[str] = set()
        self.queue: deque[Waiting] = deque()

    def hear_decision(self, decision: AdaptationDecision, timestamp_ms: int) -> None:
        """Leave a decision for the training thread; its kernels follow as mail of their own."""
        if decision.decision_id in self._heard:
            return
        self._heard.add(decision.decision_id)
        self.mailbox.append(DecisionArrived(decision, timestamp_ms))

    def take(self, step: int) -> None:
        """Work through the mailbox, then apply every decision whose turn has come."""
        while self.mailbox:
            self._handle(self.mailbox.popleft(), step)
        while self.queue and self._due(self.queue[0], step):
            self._apply(self.queue.popleft(), step)

    def take_seal(self) -> None:
        """After the last step: look only for the decision that seals the run."""
        while self.mailbox:
            mail = self.mailbox.popleft()
            if isinstance(mail, DecisionArrived):
                self._note_decision(mail.decision)

    def note_contributions(self, measured: Measured) -> None:
        """Remember what each seed on trial was last seen to contribute."""
        for (site, index), contribution in measured.contributions.items():
            planted_by = self._garden.sites[site].slots[index].decision_id
            if planted_by is not None:
                self.ancestry.contributions[planted_by, site, index] = contribution

    def _handle(self, mail: Mail, step: int) -> None:
        match mail:
            case KernelVerified(ready):
                self._offer(ready)
            case KernelRefused(kernel_id, reason):
                log.warning("kernel %s is refused: %s", kernel_id[:12], reason)
                self._reporter.note_refusal(KernelRefusal(kernel_id=kernel_id, reason=reason[:500]))
            case DecisionArrived(decision):
                self._admit(mail, decision, step)
            case KernelsPrepared(token, kernels):
                for waiting in self.queue:
                    if waiting.arrived.decision.decision_id == token:
                        waiting.kernels = dict(kernels)
            case KernelsUnprepared(token, reason):
                self._abandon(token, reason, step)

    def _offer(self, ready: KernelReady) -> None:
        if ready.kernel_id in self.ancestry.kernels:
            return
        self.ancestry.kernels[ready.kernel_id] = ready
        for site in self._garden.sites.values():
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

    def _note_decision(self, decision: AdaptationDecision) -> None:
        self.ancestry.decisions.append(decision)
        if decision.strategy is None and not decision.operations:
            self.ancestry.sealed = True

    def _admit(self, mail: DecisionArrived, decision: AdaptationDecision, step: int) -> None:
        self._note_decision(decision)
        if not decision.operations:
            return
        try:
            self._garden.reserve(decision, step)
        except PlanRefused as error:
            self._answer(mail, OutcomeStatus.REFUSED, step, str(error))
            return
        kernels: dict[str, Kernel] | None = None if kernels_needed(decision) else {}
        self.queue.append(Waiting(mail, kernels))

    def _abandon(self, token: str, reason: str, step: int) -> None:
        for waiting in list(self.queue):
            decision = waiting.arrived.decision
            if decision.decision_id == token:
                self.queue.remove(waiting)
                self._garden.release(decision, step)
                self._answer(waiting.arrived, OutcomeStatus.REFUSED, step, reason)

    def _due(self, waiting: Waiting, step: int) -> bool:
        return waiting.kernels is not None and waiting.arrived.decision.apply_at_step <= step

    def _apply(self, waiting: Waiting, step: int) -> None:
        decision = waiting.arrived.decision
        try:
            self._garden.apply(decision, waiting.kernels or {}, step)
        except PlanRefused as error:
            self._garden.release(decision, step)
            self._answer(waiting.arrived, OutcomeStatus.REFUSED, step, str(error))
        else:
            self._note_merged(decision)
            self._answer(waiting.arrived, OutcomeStatus.APPLIED, step)

    def _note_merged(self, decision: AdaptationDecision) -> None:
        for operation in decision.operations:
            slot = self._garden.sites[operation.site].slots[operation.slot]
            if slot.merged_sha256 is not None and slot.decision_id is not None:
                self.ancestry.merged.add((slot.decision_id, slot.site, slot.index))

    def _answer(
        self, mail: DecisionArrived, status: OutcomeStatus, step: int, reason: str | None = None
    ) -> None:
        if reason is not None:
            log.warning("decision %s is refused: %s", mail.decision.decision_id[:12], reason)
        outcome = Outcome(
            decision_id=mail.decision.decision_id,
            status=status,
            step=step,
            reason=reason[:500] if reason else None,
            latency_ms=time.time() * 1000 - mail.timestamp_ms,
        )
        self.ancestry.outcomes[outcome.decision_id] = outcome
        self._reporter.note_outcome(outcome)
