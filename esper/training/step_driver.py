"""What `Growth.step` does, by the mode of the run: one driver per mode.

A driver does one step and returns the driver of the next one, so a resumed run
that has caught up with its recorded reports continues with another driver.
"""

from typing import Final, Protocol

from torch import Tensor

from esper.link import closed_by
from esper.training.checkpoint import CheckpointRefused
from esper.training.checkpoint_replay import CheckpointReplay
from esper.training.lockstep import Lockstep
from esper.training.replay import Replay
from esper.training.session import Session


class StepDriver(Protocol):
    """One mode of a run.

    `leaves_open` is whether closing leaves the run open, to be resumed. `replayed` is whether a
    replay has reached the last recorded step.
    """

    @property
    def leaves_open(self) -> bool: ...
    @property
    def replayed(self) -> bool: ...

    def begin(self) -> None:
        """Start the run: send its first report."""

    def catch_up(self, step: int) -> "StepDriver":
        """Continue after the last recorded report; return the driver of the next step."""

    def step(self, loss: Tensor, step: int) -> "StepDriver":
        """Do one step; return the driver of the next one."""

    def seal_timeout_s(self, *, failed: bool) -> float | None:
        """Return how long closing waits for the seal; None if there is no last report."""


def _apply_arrived(session: Session, loss: Tensor, step: int) -> bool:
    """Apply the decisions that arrived before this step; return whether a report is due."""
    due = step % session.interval == 0
    if due:
        session.seed_manager.end_embargoes(step, session.interval)
    session.governor.observe(loss, step)
    if due or session.link.unread:
        session.link.poll()
    if session.decision_queue.has_work:
        session.decision_queue.process(step)
    session.settle(step)
    if due:
        session.check_optimizer()
    return due


class LiveDriver:
    """Applies decisions as they arrive and reports whenever the link is free."""

    leaves_open: Final = False
    replayed: Final = False

    def __init__(self, session: Session, seal_timeout_s: float) -> None:
        self._session = session
        self._seal_timeout_s = seal_timeout_s

    def begin(self) -> None:
        """Send the first report."""
        self._session.begin()

    def catch_up(self, step: int) -> StepDriver:
        """Return this driver."""
        return self

    def step(self, loss: Tensor, step: int) -> StepDriver:
        """Apply what arrived and report when due."""
        session = self._session
        if _apply_arrived(session, loss, step) and session.link.can_report():
            session.report(session.measure(), loss, step)
        return self

    def seal_timeout_s(self, *, failed: bool) -> float | None:
        """Return the configured timeout; None on a rank that makes no reports."""
        return self._seal_timeout_s if self._session.link.reports else None


class LockstepDriver:
    """Waits for the answer to each report before the next step."""

    leaves_open: Final = False
    replayed: Final = False

    def __init__(self, session: Session, lockstep: Lockstep, seal_timeout_s: float) -> None:
        self._session = session
        self._lockstep = lockstep
        self._seal_timeout_s = seal_timeout_s

    def begin(self) -> None:
        """Wait for the run's kernels, send the first report and wait for its answer."""
        self._lockstep.await_kernels()
        self._session.begin()
        self.catch_up(0)

    def catch_up(self, step: int) -> StepDriver:
        """Wait for the answer to the last report."""
        self._lockstep.await_answer(self._session.reporter.next_seq - 1, step)
        return self

    def step(self, loss: Tensor, step: int) -> StepDriver:
        """Apply the answers of the last report; report when due, and wait for the answer."""
        session = self._session
        if _apply_arrived(session, loss, step):
            # Every earlier report was answered, or the run is broken.
            self._lockstep.check()
            self._lockstep.await_auditions(session.auditions, step)
            session.report(session.measure(), loss, step)
            self.catch_up(step)
        return self

    def seal_timeout_s(self, *, failed: bool) -> float | None:
        """Return the configured timeout; 0 once the run is broken."""
        return 0.0 if self._lockstep.broken else self._seal_timeout_s


class ResumeDriver:
    """Takes the steps after a checkpoint again, as recorded; then `after` drives the run.

    After the report that closed the run no step follows: it is only completed.
    """

    leaves_open: Final = True
    replayed: Final = False

    def __init__(self, session: Session, after: StepDriver) -> None:
        self._session = session
        self._after = after
        self._recorded: CheckpointReplay | None = None

    def begin(self) -> None:
        """Do nothing: the first report was sent before the checkpoint."""

    def catch_up(self, step: int) -> StepDriver:
        """Read the reports after the checkpoint and wait for the decisions that they name.

        Raises:
            CheckpointRefused: a recorded decision or its kernels do not arrive.
        """
        session = self._session
        recorded = session.link.recorded_reports
        if session.ranks is not None:
            recorded = session.ranks.share_reports(recorded)
        if not recorded:
            return self._after.catch_up(step)
        self._recorded = CheckpointReplay(session.decision_queue, session.reporter, recorded)
        self._await_decisions(self._recorded)
        return self._skip_reports(self._recorded, step)

    def step(self, loss: Tensor, step: int) -> StepDriver:
        """Repeat the recorded decisions and incidents of this step.

        Raises:
            CheckpointRefused: the run was closed before this step, or a decision cannot be applied.
        """
        session, recorded = self._session, self._recorded
        assert recorded is not None
        if recorded.over:
            assert session.reporter.last is not None
            raise CheckpointRefused(closed_by(session.reporter.last))
        if step % session.interval == 0:
            session.seed_manager.end_embargoes(step, session.interval)
        session.governor.observe_replayed(loss, step, recorded.incidents(step))
        recorded.apply(step)
        session.settle(step)
        return self._skip_reports(recorded, step)

    def seal_timeout_s(self, *, failed: bool) -> float | None:
        """Return how long a completed run waits; any other stays open."""
        return self._after.seal_timeout_s(failed=failed)

    def _skip_reports(self, recorded: CheckpointReplay, step: int) -> StepDriver:
        recorded.skip_reports(step)
        if recorded.over and self._session.reporter.closing_seq is None:
            return self._after.catch_up(step)
        return self

    def _await_decisions(self, recorded: CheckpointReplay) -> None:
        ranks = self._session.ranks
        if ranks is None:
            recorded.await_decisions()
            return
        refusal = ""
        try:
            recorded.await_decisions()
        except CheckpointRefused as error:
            refusal = str(error)
        # If one rank cannot resume, no rank does: the others would wait for it forever.
        if reasons := ranks.reasons(refusal):
            raise CheckpointRefused(reasons)


class ReplayDriver:
    """Applies recorded decisions at their steps and compares each report with the recorded one."""

    leaves_open: Final = False

    def __init__(self, session: Session, replay: Replay) -> None:
        self._session = session
        self._replay = replay

    @property
    def replayed(self) -> bool:
        """Whether the last recorded step is reached."""
        return self._replay.over

    def begin(self) -> None:
        """Compare the first report."""
        self._session.begin()

    def catch_up(self, step: int) -> StepDriver:
        """Return this driver."""
        return self

    def step(self, loss: Tensor, step: int) -> StepDriver:
        """Apply what is recorded for this step; compare the report if one is recorded."""
        session = self._session
        due = step % session.interval == 0
        if due:
            session.seed_manager.end_embargoes(step, session.interval)
        session.governor.observe(loss, step)
        self._replay.apply(step)
        session.settle(step)
        if due:
            session.check_optimizer()
            if session.link.can_report():
                session.report(session.measure(), loss, step)
        return self

    def seal_timeout_s(self, *, failed: bool) -> float | None:
        """Return 0: nothing arrives; None after an error, which is not the recorded end."""
        return None if failed else 0.0
