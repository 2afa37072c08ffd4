"""Growth as the training loop sees it: what `esper.grow` returns."""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor
from torch.optim import Optimizer

from esper.errors import EsperError
from esper.seed import Site
from esper.training.checkpoint import Checkpoint, CheckpointRefused, restore_random_numbers
from esper.training.export import export_model
from esper.training.lineage import RunHistory
from esper.training.optimizer import OptimizerMembership
from esper.training.probe import ProbeResult
from esper.training.session import NOT_MEASURED, Session
from esper.training.source import ExportError
from esper.training.status import GrowthState, GrowthStatus
from esper.training.step_driver import StepDriver

log = logging.getLogger("esper")

SEAL_POLL_S = 0.005


class GrowthClosed(EsperError, RuntimeError):
    """A step after the end of the run."""


class LossRefused(EsperError, ValueError):
    """The argument of `step` is not the scalar loss of a step; the message says what to pass."""


class Growth:
    """A model that grows while it trains: call `step` once after each optimizer step.

    `step` never waits on the training thread, except in lockstep: kernels and decisions are taken
    from a mailbox between two steps, and without a broker growth pauses while training continues.
    """

    def __init__(
        self, session: Session, driver: StepDriver, resumed: Checkpoint | None = None
    ) -> None:
        """Hold a run that is not open yet; `resumed` is the checkpoint that it continues."""
        self.run_id = session.run.run_id
        self._session = session
        self._driver = driver
        self._step = 0 if resumed is None else resumed.step
        self._resumable = resumed is not None
        self._closed = False

    @property
    def sites(self) -> Mapping[str, Site]:
        """The sites by name, with the seeds planted there."""
        return self._session.seed_manager.sites

    @property
    def run_history(self) -> RunHistory:
        """Every decision of the run so far, and its outcome."""
        return self._session.decision_queue.run_history

    @property
    def replayed(self) -> bool:
        """Whether this is a replay that has reached the last recorded step."""
        return self._driver.replayed

    @property
    def paused(self) -> bool:
        """Whether decisions are paused, by `pause` or by `esper run pause`."""
        return self._session.reporter.news.paused

    @property
    def status(self) -> GrowthStatus:
        """Whether kernels and decisions reach this run; training continues in every state.

        A run is `waiting` while the broker is away, and continues by itself. A `failed` run gets no
        more decisions.
        """
        if self._closed:
            return GrowthStatus(GrowthState.ENDED)
        status = self._session.link.status
        if status.state is GrowthState.GROWING and self.paused:
            return status._replace(state=GrowthState.PAUSED)
        return status

    def step(self, loss: Tensor) -> None:
        """Apply what arrived, advance alpha ramps, and report when due.

        Args:
            loss: the training loss of this step, a scalar. On a GPU its value is read only at
                reports.

        Raises:
            GrowthClosed: the run has ended.
            LossRefused: the loss is no scalar tensor; nothing was done.
            LockstepBroken: in a lockstep run, an answer or a kernel did not arrive.
            CheckpointRefused: a recorded decision cannot be applied again.
            ReplayDiffers: in a replay, this step differs from the recording.
        """
        if self._closed:
            raise GrowthClosed(f"run {self.run_id} has ended; call step only inside its `with`")
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise LossRefused(_no_loss(loss))
        self._step += 1
        self._driver = self._driver.step(loss, self._step)
        if self._session.gradients is not None:
            self._session.prepare_gradients(self._step + 1)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the run except weights and optimizer; save it with theirs.

        The state includes torch's random number generators and loads with `weights_only=True`. A
        run that has returned a state is left open if its block ends with an error, so that
        `esper.resume` can continue it:

            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(),
                        "growth": growth.state_dict()}, path)
            ...
            state = torch.load(path)
            with esper.resume(state["growth"], model, optimizer, ..) as growth:
                model.load_state_dict(state["model"])
                optimizer.load_state_dict(state["optimizer"])

        Raises:
            CheckpointRefused: this is a rank other than 0, or a replay.
        """
        session = self._session
        if session.link.no_checkpoint is not None:
            raise CheckpointRefused(session.link.no_checkpoint)
        self._resumable = True
        return Checkpoint.of(
            session.run,
            self._step,
            session.seed_manager,
            session.decision_queue,
            session.reporter,
            session.governor.loss_monitor_state,
        ).to_state()

    def use(self, optimizer: Optimizer) -> None:
        """Train what grows with another optimizer from now on, because the loop replaced its own.

        Kernel parameters that it does not hold yet are added to it.

        Raises:
            OptimizerRefused, ParameterUntrained: the optimizer cannot take parameters, or does not
                train a site's layer.
        """
        self._session.seed_manager.set_optimizer(OptimizerMembership(optimizer))
        self._session.governor.restart_snapshots(self._step)

    def pause(self) -> None:
        """Pause decisions from the next report on; planted seeds keep training.

        Decisions under way and manual requests are still applied. Over several ranks only rank 0's
        call counts.
        """
        self._session.reporter.news.paused = True

    def resume(self) -> None:
        """Resume decisions from the next report on."""
        self._session.reporter.news.paused = False

    def close(self) -> None:
        """End the run: send the last report, wait for the seal, disconnect. Idempotent."""
        self._end(self._session.measure)

    def export(self, folder: str | Path) -> Path:
        """Write the grown network as plain PyTorch source, weights and lineage; return the folder.

        Raises:
            ExportError: the host cannot be written as source; the message names the obstacle.
        """
        session = self._session
        if not session.link.reports:
            raise ExportError("only rank 0 knows the kernels' names; export there")
        return export_model(
            session.model,
            session.seed_manager.sites,
            session.probe.inputs[:1],
            self.run_history,
            self.run_id,
            Path(folder),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # After an error the model may not run any more: the last report measures nothing.
        measure = self._session.measure if error is None else lambda: NOT_MEASURED
        self._end(measure, failed=error is not None)

    def open(self) -> Self:
        """Announce the run and send its first report; `esper.grow` has called this."""
        session = self._session
        try:
            session.link.open(
                session.decision_queue.mailbox.append, session.decision_queue.on_decision
            )
            self._driver.begin()
            session.prepare_gradients(self._step + 1)
        except BaseException:
            self._abandon()
            raise
        return self

    def continue_from(self, state: Mapping[str, Any]) -> None:
        """Read the reports after a checkpoint and restore its random numbers; call after `open`.

        Raises:
            CheckpointRefused: a recorded decision or its kernels do not arrive.
        """
        try:
            self._driver = self._driver.catch_up(self._step)
            if self._session.ranks is None:
                restore_random_numbers(state)
        except BaseException:
            self._abandon()
            raise

    def _abandon(self) -> None:
        self._closed = True
        self._session.seed_manager.close()
        self._session.link.close(leave_open=self._resumable)

    def _end(self, measure: Callable[[], ProbeResult], *, failed: bool = False) -> None:
        if self._closed:
            return
        self._closed = True
        session = self._session
        session.decision_queue.stop_voting(failed=failed)
        session.link.leave_ranks()
        can_go_on = session.reporter.closing_seq is None
        leave_open = can_go_on and (self._driver.leaves_open or (failed and self._resumable))
        if leave_open and session.link.reports:
            log.warning("run %s is left open, to be resumed from a checkpoint", self.run_id)
        timeout_s = None if leave_open else self._driver.seal_timeout_s(failed=failed)
        try:
            if timeout_s is not None:
                self._report_last(measure, time.monotonic() + timeout_s)
        finally:
            session.seed_manager.close()
            session.link.close(leave_open=leave_open)
        if session.ranks is not None and not failed:
            session.ranks.close()

    def _report_last(self, measure: Callable[[], ProbeResult], deadline: float) -> None:
        if self._session.reporter.closing_seq is None:
            if not self._session.link.wait_to_report(deadline):
                log.warning("run %s ends without its last report", self.run_id)
                return
            self._session.report(measure(), None, self._step, closing=True)
        while not self.run_history.sealed and time.monotonic() < deadline:
            time.sleep(SEAL_POLL_S)
            self._session.decision_queue.take_seal()
        if not self.run_history.sealed:
            log.warning("run %s is not sealed: no bandit worker answered", self.run_id)


def _no_loss(given: object) -> str:
    if isinstance(given, Tensor):
        return (
            f"growth.step was given a tensor of shape {tuple(given.shape)}; give the loss of the "
            "step as a scalar, such as its mean"
        )
    return (
        f"growth.step was given {type(given).__name__}; give the loss of the step as the scalar "
        "tensor that backward was called on"
    )
