"""Resuming from a checkpoint: the recorded steps after it are repeated.

Each decision is applied at its recorded step and no report is made twice. After the last recorded
report the run continues like any other.
"""

import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from esper.kernel import Kernel, KernelsFailed, KernelsPrepared, KernelVerified
from esper.topics.models import DecisionOutcome, Incident, OutcomeStatus, SeedReport
from esper.training.checkpoint import CheckpointRefused
from esper.training.decision_queue import DecisionArrived, DecisionQueue, Message
from esper.training.probe import ON_TRIAL, ProbeResult
from esper.training.reporter import Reporter
from esper.training.seed_manager import PlanRefused, kernels_needed

TIMEOUT_S: Final = 60.0
POLL_S: Final = 0.002


class CheckpointReplay:
    """The recorded reports after a checkpoint, and the decisions whose outcomes they carry."""

    def __init__(
        self, decision_queue: DecisionQueue, reporter: Reporter, recorded: Sequence[SeedReport]
    ) -> None:
        self._decision_queue = decision_queue
        self._reporter = reporter
        self._recorded = deque(recorded)
        known = decision_queue.run_history.outcomes
        self._outcomes: dict[str, DecisionOutcome] = {
            outcome.decision_id: outcome
            for report in recorded
            for outcome in report.outcomes
            if outcome.decision_id not in known
        }
        self._order = deque(self._outcomes)
        self._incidents = [incident for report in recorded for incident in report.incidents]
        self._arrived: dict[str, DecisionArrived] = {}
        self._kernels: dict[str, dict[str, Kernel]] = {}
        self._offers: dict[str, KernelVerified] = {}
        self._later: list[Message] = []

    @property
    def over(self) -> bool:
        """Whether the last recorded report has been passed."""
        return not self._recorded

    def await_decisions(self, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until every recorded decision has arrived with its kernels.

        Raises:
            CheckpointRefused: a decision or a kernel does not arrive.
        """
        deadline = time.monotonic() + timeout_s
        while missing := self._missing():
            if time.monotonic() > deadline:
                raise CheckpointRefused(
                    f"decision {missing[:12]}, recorded as applied, does not come with its "
                    "kernels; do the broker and the kernel store answer?"
                )
            time.sleep(POLL_S)

    def apply(self, step: int) -> None:
        """Apply the decisions that are recorded for this step.

        Raises:
            CheckpointRefused: a decision cannot be applied now.
        """
        self._read_mailbox()
        while self._order and self._outcomes[self._order[0]].step <= step:
            outcome = self._outcomes[self._order.popleft()]
            arrived = self._arrived.pop(outcome.decision_id)
            kernels = self._kernels.pop(outcome.decision_id, {})
            try:
                self._decision_queue.repeat(arrived.decision, kernels, outcome)
            except PlanRefused as error:
                raise CheckpointRefused(
                    f"decision {outcome.decision_id[:12]} cannot be applied again: {error}"
                ) from error

    def incidents(self, step: int) -> list[Incident]:
        """Return the recorded incidents of a step."""
        return [incident for incident in self._incidents if incident.step == step]

    def skip_reports(self, step: int) -> None:
        """Skip the reports that are recorded for this step: the last step may have two."""
        while self._recorded and self._recorded[0].step == step:
            self._skip(self._recorded.popleft())
        if self.over:
            self._release()

    def _skip(self, report: SeedReport) -> None:
        self._reporter.skip(report)
        on_trial = [seed for seed in report.seeds if seed.state in ON_TRIAL]
        contributions = {(seed.site, seed.slot): seed.contribution for seed in on_trial}
        self._decision_queue.note_contributions(ProbeResult(report.probe_loss, contributions))
        for kernel in report.kernels:
            if offer := self._offers.pop(kernel.kernel_id, None):
                self._decision_queue.run_history.kernels[kernel.kernel_id] = offer.ready

    def _missing(self) -> str | None:
        """Return the id of a decision that has not arrived with its kernels."""
        self._read_mailbox()
        for decision_id, outcome in self._outcomes.items():
            arrived = self._arrived.get(decision_id)
            if arrived is None:
                return decision_id
            applied = outcome.status is OutcomeStatus.APPLIED
            if applied and kernels_needed(arrived.decision) and decision_id not in self._kernels:
                return decision_id
        return None

    def _read_mailbox(self) -> None:
        while self._decision_queue.mailbox:
            message = self._decision_queue.mailbox.popleft()
            match message:
                case DecisionArrived(decision) if decision.decision_id in self._outcomes:
                    self._arrived[decision.decision_id] = message
                case KernelsPrepared(token, kernels) if token in self._outcomes:
                    self._kernels[token] = dict(kernels)
                case KernelsFailed(token, reason) if token in self._outcomes:
                    self._note_lost(token, reason)
                case KernelVerified(ready):
                    self._offers[ready.kernel_id] = message
                case _:
                    self._later.append(message)

    def _note_lost(self, decision_id: str, reason: str) -> None:
        if self._outcomes[decision_id].status is OutcomeStatus.APPLIED:
            raise CheckpointRefused(
                f"a kernel of decision {decision_id[:12]}, which was applied after the "
                f"checkpoint, can no longer be loaded: {reason}"
            )

    def _release(self) -> None:
        """Return unrecorded messages to the mailbox: loadable kernels and open decisions."""
        self._decision_queue.mailbox.extendleft(reversed([*self._offers.values(), *self._later]))
        self._offers, self._later = {}, []
