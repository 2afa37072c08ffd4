"""Replay: a recorded run once more, without a broker and without a worker.

Each decision takes effect at the step at which it did. What the trainer finds out by itself is held
against the record: losses, contributions, states of seeds, gradients, what the governor does. So a
replay is the same run, or an error that says where it first is not.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from esper.kernel import Kernel
from esper.topics.models import (
    AdaptationDecision,
    DecisionOutcome,
    MemorySnapshot,
    OutcomeStatus,
    SeedReport,
    SeedState,
)
from esper.training.decision_queue import DecisionQueue
from esper.training.frame_decoder import Deliver, FrameDecoder, HearDecision
from esper.training.recording import RunRecording
from esper.training.seed_manager import PlanRefused, kernels_needed

NOWHERE: Final = "nothing"


@dataclass(frozen=True, slots=True)
class Difference:
    """The first thing that is not as recorded: at which report and step, and what it is."""

    report: int
    step: int
    what: str
    recorded: Any
    replayed: Any

    def __str__(self) -> str:
        return (
            f"report {self.report}, step {self.step}: {self.what} is {self.recorded} on record, "
            f"and {self.replayed} here"
        )


class ReplayDiffers(RuntimeError):
    """A replay that is not the run of its record; `difference` says where, if it is in a report."""

    def __init__(self, run_id: str, difference: Difference | str) -> None:
        self.run_id = run_id
        self.difference = difference if isinstance(difference, Difference) else None
        super().__init__(
            f"the replay of run {run_id} differs: {difference}; it takes the code, data, settings, "
            "torch and number of threads of the run"
        )


class Replay:
    """Stands where a run's link stands, and reaches nothing: a report is compared, not sent."""

    reports: Final = True

    def __init__(self, recording: RunRecording, decoder: FrameDecoder) -> None:
        self._recording = recording
        self._decoder = decoder
        self._decision_queue: DecisionQueue | None = None
        self._ahead = deque(recording.reports)
        self._decisions = deque(recording.decisions)
        self._step = 0
        self.logged: list[SeedReport] = []
        self.memory: MemorySnapshot | None = None

    @property
    def over(self) -> bool:
        """Whether the step of the last report has been reached."""
        return self._step >= self._recording.last_step

    def begin(self, decision_queue: DecisionQueue) -> None:
        """Have decisions take effect through this inbox."""
        self._decision_queue = decision_queue
        kernels = self._recording.kernels
        decision_queue.run_history.kernels.update(
            {name: each.ready for name, each in kernels.items()}
        )

    def apply(self, step: int) -> None:
        """Do what was done at this step.

        Raises:
            ReplayDiffers: it is not possible here, or the record has ended.
        """
        if step > self._recording.last_step:
            ending = "ended there" if self._recording.closed else "says no more"
            self._differ(f"at step {self._recording.last_step} the record {ending}")
        self._step = step
        while self._decisions and self._is_due(self._decisions[0]):
            decision = self._decisions.popleft()
            outcome = self._outcome(decision)
            if outcome is None:
                self._own_inbox.note_decision(decision)
            else:
                self._repeat(decision, outcome)

    def report(self, report: SeedReport) -> None:
        """Compare a report with the one on record.

        Raises:
            ReplayDiffers: something in it is otherwise.
        """
        recorded = self._ahead.popleft()
        for difference in differences(recorded, report):
            self._differ(difference)
        if recorded.closing:
            for decision in self._decisions:
                self._own_inbox.note_decision(decision)

    def free(self) -> bool:
        """Whether a report was made at this step: where the broker was busy, none was."""
        return bool(self._ahead) and self._ahead[0].step == self._step and not self._closing_next

    def wait_free(self, deadline: float) -> bool:
        """Whether the run's end is on record.

        Raises:
            ReplayDiffers: its end is not here.
        """
        if self._ahead and not (self._closing_next and self._ahead[0].step == self._step):
            self._differ(
                f"the training ends after step {self._step}, and the record goes on to step "
                f"{self._recording.last_step}"
            )
        return bool(self._ahead)

    def open(self, deliver: Deliver, on_decision: HearDecision) -> None:
        """Nothing is heard."""

    def take(self) -> None:
        """Nothing comes."""

    def part_from_ranks(self) -> None:
        """There are none."""

    def close(self, *, leave_open: bool = False) -> None:
        """There is nothing to close."""

    @property
    def _closing_next(self) -> bool:
        return bool(self._ahead) and self._ahead[0].closing

    @property
    def _own_inbox(self) -> DecisionQueue:
        assert self._decision_queue is not None
        return self._decision_queue

    def _outcome(self, decision: AdaptationDecision) -> DecisionOutcome | None:
        return self._recording.outcomes.get(decision.decision_id)

    def _is_due(self, decision: AdaptationDecision) -> bool:
        outcome = self._outcome(decision)
        if outcome is not None:
            return outcome.step <= self._step
        # It asked for nothing, or came too late to be answered.
        return not self._ahead or decision.seq < self._ahead[0].seq

    def _repeat(self, decision: AdaptationDecision, outcome: DecisionOutcome) -> None:
        kernels = self._kernels(decision) if outcome.status is OutcomeStatus.APPLIED else {}
        try:
            self._own_inbox.repeat(decision, kernels, outcome)
        except PlanRefused as error:
            self._differ(
                f"decision {decision.decision_id[:12]} cannot be applied at step {self._step}: "
                f"{error}"
            )

    def _kernels(self, decision: AdaptationDecision) -> dict[str, Kernel]:
        verified = self._recording.kernels
        return {
            name: self._decoder.kernel(verified[name].data, verified[name].ready.sha256)
            for name in kernels_needed(decision)
        }

    def _differ(self, what: Difference | str) -> None:
        raise ReplayDiffers(self._recording.run_id, what)


def differences(recorded: SeedReport, made: SeedReport) -> Iterator[Difference]:
    """Yield what is otherwise in a report that was made again.

    A loading seed is not compared: how long its kernel took to be there says nothing of the run.
    Of a run that was broken off the last report measured nothing.
    """
    unmeasured = recorded.closing and recorded.probe_loss is None
    theirs, ours = _facts(recorded, unmeasured), _facts(made, unmeasured)
    for name in theirs | ours:
        one, other = theirs.get(name, NOWHERE), ours.get(name, NOWHERE)
        if one != other:
            yield Difference(recorded.seq, recorded.step, name, one, other)


def _facts(report: SeedReport, unmeasured: bool) -> dict[str, Any]:
    """Return what a replay computes of a report, each by the name that a person knows it by."""
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
