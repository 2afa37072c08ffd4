"""`Session`: the parts of a run in the training process, shared by all step drivers."""

import logging
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn

from esper.seed import capture_due
from esper.topics.models import MemorySnapshot, SeedReport, TrainingRun
from esper.training.auditions import NO_AUDITIONS, Auditions, NoAuditions
from esper.training.decision_queue import DecisionQueue
from esper.training.frame_decoder import Deliver, OnDecision
from esper.training.governor import Governor
from esper.training.gradients import GradientNorms
from esper.training.loss_monitor import LossMonitorState
from esper.training.probe import Probe, ProbeResult
from esper.training.ranks import Ranks
from esper.training.reporter import Reporter
from esper.training.seed_manager import SeedManager
from esper.training.status import GrowthStatus

log = logging.getLogger("esper")

NOT_MEASURED = ProbeResult(loss=None, contributions={})


class Link(Protocol):
    """Where reports go and where kernels and decisions come from.

    `RunLink` reaches Kafka, `RelayedLink` reaches rank 0, `Replay` reads a recording. `reports` is
    whether reports are made here, `no_checkpoint` why no checkpoint can be made here, `unread`
    whether the last `poll` left messages for the next one.
    """

    @property
    def reports(self) -> bool: ...
    @property
    def no_checkpoint(self) -> str | None: ...
    @property
    def unread(self) -> bool: ...
    @property
    def recorded_reports(self) -> list[SeedReport]: ...
    @property
    def memory(self) -> MemorySnapshot | None: ...
    @property
    def status(self) -> GrowthStatus: ...

    def open(self, deliver: Deliver, on_decision: OnDecision) -> None: ...
    def poll(self) -> None: ...
    def can_report(self) -> bool: ...
    def report(self, report: SeedReport) -> None: ...
    def wait_to_report(self, deadline: float) -> bool: ...
    def leave_ranks(self) -> None: ...
    def close(self, *, leave_open: bool = False) -> None: ...


class NoGovernor:
    """A governor that is off."""

    loss_monitor_state: LossMonitorState | None = None

    def begin(self) -> None:
        """Do nothing."""

    def observe(self, loss: Tensor, step: int) -> None:
        """Do nothing."""

    def observe_replayed(self, loss: Tensor, step: int, recorded: object) -> None:
        """Do nothing."""

    def note_plans(self, step: int) -> None:
        """Do nothing."""

    def restart_snapshots(self, step: int) -> None:
        """Do nothing."""


@dataclass(slots=True)
class Session:
    """The parts of one run; `interval` is the reporting interval in steps.

    `refused_decisions` is how many refusals the reports have named.
    """

    run: TrainingRun
    model: nn.Module
    probe: Probe
    seed_manager: SeedManager
    reporter: Reporter
    decision_queue: DecisionQueue
    link: Link
    governor: Governor | NoGovernor
    gradients: GradientNorms | None
    ranks: Ranks | None
    auditions: Auditions | NoAuditions = NO_AUDITIONS
    interval: int = field(init=False)
    refused_decisions: int = 0

    def __post_init__(self) -> None:
        """Read the reporting interval from the run configuration."""
        self.interval = self.reporter.run_config.report_interval_steps

    def measure(self) -> ProbeResult:
        """Return the probe loss and the contribution of each seed on trial."""
        return self.probe.measure(self.model, self.seed_manager.sites)

    def begin(self) -> None:
        """Keep the first snapshot and send the first report."""
        self.governor.begin()
        if self.link.reports:
            self._use_memory(self.link.memory)
            self.report(self.measure(), None, 0)

    def report(
        self, measured: ProbeResult, loss: Tensor | None, step: int, *, closing: bool = False
    ) -> SeedReport:
        """Make the next report, send it and return it."""
        self.decision_queue.note_contributions(measured)
        gradients = None if self.gradients is None or closing else self.gradients.take()
        refused = self.link.status.refused_decisions
        report = self.reporter.next(
            self.seed_manager.sites,
            measured,
            step=step,
            train_loss=loss,
            gradients=gradients,
            refused_decisions=refused - self.refused_decisions,
            closing=closing,
        )
        self.refused_decisions = refused
        self.link.report(report)
        return report

    def settle(self, step: int) -> None:
        """Finish a step after its plans: note them, and advance alpha ramps."""
        self.governor.note_plans(step)
        self.seed_manager.ramp(step)
        self.auditions.advance(step)
        capture_due()

    def prepare_gradients(self, next_step: int) -> None:
        """Measure gradients in the next step if that step is reported with gradients."""
        if self.gradients is not None and next_step % self.interval == 0:
            self.seed_manager.measure_gradients(self.gradients)

    def check_optimizer(self) -> None:
        """Warn if the optimizer has taken no step since the last report."""
        if not self.seed_manager.optimizer_stepped():
            log.warning(
                "the optimizer given to grow took no step since the last report; if another one "
                "trains the model now, call growth.use(optimizer)"
            )

    def _use_memory(self, memory: MemorySnapshot | None) -> None:
        """Put the family's memory into the run configuration, the only input of decisions."""
        if memory is None:
            return
        reporter = self.reporter
        reporter.run_config = reporter.run_config.model_copy(update={"memory": memory})
        if memory.note is not None:
            log.warning("run %s begins without memory of others: %s", self.run.run_id, memory.note)
