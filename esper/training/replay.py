"""Replay of a recorded run, without a broker and without workers.

Each decision takes effect at its recorded step. What the trainer computes is compared with the
recording: losses, contributions, seed states, gradients, incidents. A replay is the same run, or
raises an error that names the first difference.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from esper.errors import EsperError
from esper.kernel import Kernel
from esper.topics.models import (
    AdaptationDecision,
    DecisionOutcome,
    OutcomeStatus,
    SeedReport,
    SeedState,
)
from esper.training.decision_queue import DecisionQueue
from esper.training.frame_decoder import Deliver, FrameDecoder, OnDecision
from esper.training.recording import RunRecording
from esper.training.seed_manager import PlanRefused
from esper.training.status import GrowthState, GrowthStatus

NOWHERE: Final = "nothing"


@dataclass(frozen=True, slots=True)
class Difference:
    """The first value that differs from the recording."""

    report: int
    step: int
    what: str
    recorded: Any
    replayed: Any

    def __str__(self) -> str:
        return (
            f"report {self.report}, step {self.step}: {self.what} is {self.recorded} "
            f"in the recording, and {self.replayed} here"
        )


class ReplayDiffers(EsperError, RuntimeError):
    """A replay that differs from its recording; `difference` is set if a report shows it."""

    def __init__(self, run_id: str, difference: Difference | str) -> None:
        self.run_id = run_id
        self.difference = difference if isinstance(difference, Difference) else None
        super().__init__(
            f"the replay of run {run_id} differs: {difference}; it takes the code, data, settings, "
            "torch and number of threads of the run"
        )


class Replay:
    """The link of a replay: reports are compared with the recorded ones, and nothing arrives."""

    reports: Final = True
    memory: Final = None
    status: Final = GrowthStatus(GrowthState.GROWING)
    unread: Final = False
    no_checkpoint: Final = "a replay has no checkpoints; start the replay again"

    def __init__(
        self, recording: RunRecording, decoder: FrameDecoder, decision_queue: DecisionQueue
    ) -> None:
        """Prepare the replay; decisions take effect through `decision_queue`."""
        self.recorded_reports: list[SeedReport] = []
        self._recording = recording
        self._decoder = decoder
        self._decision_queue = decision_queue
        self._ahead = deque(recording.reports)
        self._decisions = deque(recording.decisions)
        self._step = 0
        decision_queue.run_history.kernels.update(
            {name: kernel.ready for name, kernel in recording.kernels.items()}
        )

    @property
    def over(self) -> bool:
        """Whether the step of the last report has been reached."""
        return self._step >= self._recording.last_step

    def apply(self, step: int) -> None:
        """Repeat the decisions that are recorded for this step.

        Raises:
            ReplayDiffers: a decision cannot be applied, or the recording has ended.
        """
        if step > self._recording.last_step:
            ending = "ended there" if self._recording.closed else "says no more"
            self._differ(f"at step {self._recording.last_step} the record {ending}")
        self._step = step
        while self._decisions and self._is_due(self._decisions[0]):
            decision = self._decisions.popleft()
            outcome = self._outcome(decision)
            if outcome is None:
                self._decision_queue.note_decision(decision)
            else:
                self._repeat(decision, outcome)

    def report(self, report: SeedReport) -> None:
        """Compare a report with the recorded one.

        Raises:
            ReplayDiffers: a value differs.
        """
        recorded = self._ahead.popleft()
        for difference in differences(recorded, report):
            self._differ(difference)
        if recorded.closing:
            for decision in self._decisions:
                self._decision_queue.note_decision(decision)

    def can_report(self) -> bool:
        """Return whether a report is recorded at this step; a busy broker skips some."""
        return bool(self._ahead) and self._ahead[0].step == self._step and not self._closing_next

    def wait_to_report(self, deadline: float) -> bool:
        """Return whether the end of the run is recorded.

        Raises:
            ReplayDiffers: the run ended at a later step.
        """
        if self._ahead and not (self._closing_next and self._ahead[0].step == self._step):
            self._differ(
                f"the training ends after step {self._step}, and the recording continues to step "
                f"{self._recording.last_step}"
            )
        return bool(self._ahead)

    def open(self, deliver: Deliver, on_decision: OnDecision) -> None:
        """Do nothing: nothing arrives."""

    def poll(self) -> None:
        """Do nothing: nothing arrives."""

    def leave_ranks(self) -> None:
        """Do nothing: a replay has one rank."""

    def close(self, *, leave_open: bool = False) -> None:
        """Do nothing: nothing is connected."""

    @property
    def _closing_next(self) -> bool:
        return bool(self._ahead) and self._ahead[0].closing

    def _outcome(self, decision: AdaptationDecision) -> DecisionOutcome | None:
        return self._recording.outcomes.get(decision.decision_id)

    def _is_due(self, decision: AdaptationDecision) -> bool:
        outcome = self._outcome(decision)
        if outcome is not None:
            return outcome.step <= self._step
        # The decision has no operations, or arrived too late to get an outcome.
        return not self._ahead or decision.seq < self._ahead[0].seq

    def _repeat(self, decision: AdaptationDecision, outcome: DecisionOutcome) -> None:
        kernels = self._kernels(decision) if outcome.status is OutcomeStatus.APPLIED else {}
        try:
            self._decision_queue.repeat(decision, kernels, outcome)
        except PlanRefused as error:
            self._differ(
                f"decision {decision.decision_id[:12]} cannot be applied at step {self._step}: "
                f"{error}"
            )

    def _kernels(self, decision: AdaptationDecision) -> dict[str, Kernel]:
        verified = [self._recording.planted(plant) for plant in decision.plants]
        return {
            one.ready.kernel_id: self._decoder.kernel(one.data, one.ready.sha256)
            for one in verified
        }

    def _differ(self, what: Difference | str) -> None:
        raise ReplayDiffers(self._recording.run_id, what)


def differences(recorded: SeedReport, made: SeedReport) -> Iterator[Difference]:
    """Yield the differences between a recorded report and the one made in the replay.

    Loading seeds are not compared: loading time varies. The last report of a failed run measured
    nothing.
    """
    unmeasured = recorded.closing and recorded.probe_loss is None
    theirs, ours = _facts(recorded, unmeasured), _facts(made, unmeasured)
    for name in theirs | ours:
        one, other = theirs.get(name, NOWHERE), ours.get(name, NOWHERE)
        if one != other:
            yield Difference(recorded.seq, recorded.step, name, one, other)


def _facts(report: SeedReport, unmeasured: bool) -> dict[str, Any]:
    """Return the values of a report that a replay computes, by readable name."""
    facts: dict[str, Any] = {"seq": report.seq, "step": report.step, "closing": report.closing}
    facts["the training loss"] = report.train_loss
    if not unmeasured:
        facts["the probe loss"] = report.probe_loss
    for seed in report.seeds:
        if seed.state is SeedState.LOADING:
            continue
        for name, value in seed.model_dump(mode="json", exclude={"site", "slot"}).items():
            if not (unmeasured and name == "contribution"):
                facts[f"the {name} of seed {seed.site}/{seed.slot}"] = value
    for site, norm in report.gradients.items():
        facts[f"the gradient at {site}"] = norm
    for number, incident in enumerate(report.incidents):
        facts[f"incident {number}"] = incident.model_dump(mode="json")
    return facts
