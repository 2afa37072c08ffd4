"""Growth as the training loop sees it: what `esper.grow` returns."""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor, nn
from torch.optim import Optimizer

from esper.seed import Site, capture_due
from esper.topics.models import MemorySnapshot, RunConfig, TrainingRun
from esper.training.checkpoint import Checkpoint, CheckpointRefused, restore_random_numbers
from esper.training.checkpoint_replay import CheckpointReplay
from esper.training.decision_queue import DecisionQueue
from esper.training.export import export_model
from esper.training.governor import Governor
from esper.training.gradients import GradientNorms
from esper.training.grow_config import SEAL_TIMEOUT_S, LockstepTimeouts
from esper.training.lineage import RunHistory
from esper.training.link import RunLink
from esper.training.lockstep import Lockstep
from esper.training.loss_monitor import GovernorSettings, LossMonitorState
from esper.training.optimizer import OptimizerMembership
from esper.training.probe import Probe, ProbeResult
from esper.training.ranks import DecisionVote, Ranks, RelayedLink
from esper.training.replay import Replay
from esper.training.reporter import Reporter
from esper.training.run_config import is_contextual
from esper.training.seed_manager import SeedManager
from esper.training.source import ExportError

log = logging.getLogger("esper")


class GrowthClosed(RuntimeError):
    """A step after the run's end."""


class LossRefused(ValueError):
    """What was given to `step` is not the loss of a step; the message says what to give."""


class Growth:
    """A model that grows while it is trained: call `step` once after each optimizer step.

    Nothing in here waits on the training thread: kernels and decisions are taken from a mailbox
    between two steps, and a broker that is away pauses growth, not training. In a lockstep run,
    one with `timeouts`, training waits for the answer to each report. Where the link is a `Replay`,
    all comes from a record.
    """

    def __init__(
        self,
        model: nn.Module,
        seed_manager: SeedManager,
        probe: Probe,
        run: TrainingRun,
        run_config: RunConfig,
        link: RunLink | RelayedLink | Replay,
        *,
        ranks: Ranks | None = None,
        seal_timeout_s: float = SEAL_TIMEOUT_S,
        timeouts: LockstepTimeouts | None = None,
        resumed: Checkpoint | None = None,
        governor: GovernorSettings | None = None,
        dry_run: bool = False,
    ) -> None:
        self.run_id = run.run_id
        self._run = run
        self._model = model
        self._probe = probe
        self._interval = run_config.report_interval_steps
        self._reporter = Reporter(run.run_id, run_config)
        self._seed_manager = seed_manager
        self._gradients: GradientNorms | None = None
        if is_contextual(run_config) and link.reports:
            self._gradients = GradientNorms(seed_manager.sites)
        self._ranks = ranks
        self._decision_vote = None if ranks is None else DecisionVote(ranks)
        self._decision_queue = DecisionQueue(
            self._seed_manager, self._reporter, self._decision_vote, dry_run=dry_run
        )
        self._link = link
        self._replay = link if isinstance(link, Replay) else None
        if self._replay is not None:
            self._replay.begin(self._decision_queue)
        self._lockstep: Lockstep | None = None
        if timeouts is not None:
            assert isinstance(link, RunLink)
            self._lockstep = Lockstep(run.run_id, link, self._decision_queue, timeouts)
        self._seal_timeout_s = seal_timeout_s
        self._step = 0
        self._closed = False
        self._checkpoint_replay: CheckpointReplay | None = None
        self._goes_on = resumed is not None
        if resumed is not None:
            resumed.restore(seed_manager, self._decision_queue, self._reporter)
            self._step = resumed.step
        self._governor: Governor | None = None
        if governor is not None:
            self._governor = Governor(
                governor,
                model,
                seed_manager,
                self._interval,
                self._decision_queue.planted_at,
                self._decision_queue.note_incident,
            )
            if resumed is not None:
                told = any(not incident.seeds for incident in resumed.incidents)
                self._governor.resume(
                    resumed.loss_monitor_state or LossMonitorState(), host_reported=told
                )

    @property
    def sites(self) -> Mapping[str, Site]:
        """The sites by name, with what is planted there."""
        return self._seed_manager.sites

    @property
    def run_history(self) -> RunHistory:
        """Every decision of the run so far, and what became of it."""
        return self._decision_queue.run_history

    def step(self, loss: Tensor) -> None:
        """Apply what arrived, move blending seeds on, and report when it is time.

        `loss` is the training loss of this step, a scalar; on a GPU it is read only at reports.

        Raises:
            GrowthClosed: the run has ended.
            LossRefused: it is no scalar tensor; nothing was done.
            LockstepBroken: in a lockstep run, what it waits for did not come.
            CheckpointRefused: what was done after a checkpoint cannot be done again.
            ReplayDiffers: in a replay, something is not as recorded.
        """
        if self._closed:
            raise GrowthClosed(f"run {self.run_id} has ended; call step only inside its `with`")
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise LossRefused(_no_loss(loss))
        self._step += 1
        self._act(loss)
        self._await_gradients()

    @property
    def replayed(self) -> bool:
        """Whether this is a replay, and has come to the last step on record."""
        return self._replay is not None and self._replay.over

    def state_dict(self) -> dict[str, Any]:
        """Return all of the run but weights and optimizer: save it with theirs, between two steps.

        It holds the random numbers of torch too, and `torch.load` reads it with `weights_only`.
        Once asked for, a run whose block ends with an error is left open, to go on from here:

            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(),
                        "growth": growth.state_dict()}, path)
            ...
            state = torch.load(path)
            with esper.resume(state["growth"], model, optimizer, ..) as growth:
                model.load_state_dict(state["model"])
                optimizer.load_state_dict(state["optimizer"])

        Raises:
            CheckpointRefused: this is not rank 0, which alone knows all of the run, or a replay.
        """
        if self._replay is not None:
            raise CheckpointRefused("a replay does not go on from a checkpoint; replay it anew")
        if not self._link.reports:
            raise CheckpointRefused("only rank 0 knows all of the run; ask for its state there")
        self._goes_on = True
        return Checkpoint.of(
            self._run,
            self._step,
            self._seed_manager,
            self._decision_queue,
            self._reporter,
            None if self._governor is None else self._governor.loss_monitor_state,
        ).to_state()

    def use(self, optimizer: Optimizer) -> None:
        """Have another optimizer train what grows, from now on: the loop has replaced its own.

        Parameters of kernels that it does not hold yet join it.

        Raises:
            OptimizerRefused, ParameterUntrained: it cannot, or does not train a site's layer.
        """
        self._seed_manager.set_optimizer(OptimizerMembership(optimizer))
        if self._governor is not None:
            self._governor.restart_snapshots(self._step)

    @property
    def paused(self) -> bool:
        """Whether nothing is decided: by `pause`, or by a person with `esper run pause`."""
        return self._reporter.paused

    def pause(self) -> None:
        """Have nothing decided from the next report on; what is planted goes on as it is.

        It is trained, ramped and reported on. Decisions under way are still applied, and so is
        what a person asks for by hand. Over several ranks, rank 0's word counts.
        """
        self._reporter.paused = True

    def resume(self) -> None:
        """Have decisions made again, from the next report on."""
        self._reporter.paused = False

    def close(self) -> None:
        """End the run: send the last report, wait for the seal, disconnect. Safe to call twice."""
        self._end(self._measure)

    def export(self, folder: str | Path) -> Path:
        """Write the grown network as plain PyTorch source, weights and lineage; return the folder.

        Raises:
            ExportError: the host cannot be written as source; the message says what is in the way.
        """
        if not self._link.reports:
            raise ExportError("only rank 0 knows what kernels are called; export there")
        return export_model(
            self._model,
            self._seed_manager.sites,
            self._probe.inputs[:1],
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
        self._end(self._measure if error is None else _unmeasured, failed=error is not None)

    def open(self) -> Self:
        """Announce the run, send its first report and begin to listen; `grow` has called this."""
        try:
            self._link.open(self._decision_queue.mailbox.append, self._decision_queue.on_decision)
            self._link.take()
            if not self._goes_on:
                self._begin()
            self._await_gradients()
        except BaseException:
            self._abandon()
            raise
        return self

    def continue_from(self, state: Mapping[str, Any]) -> None:
        """Be ready to go on from the state that this was made with, and `open`ed.

        Raises:
            CheckpointRefused: what is to be done again cannot be had.
        """
        try:
            logged = self._link.logged
            if self._ranks is not None:
                logged = self._ranks.share_reports(logged)
            if logged:
                self._checkpoint_replay = CheckpointReplay(
                    self._decision_queue, self._reporter, logged
                )
                self._await_retrace(self._checkpoint_replay)
            elif self._lockstep is not None:
                self._lockstep.await_answer(self._reporter.next_seq - 1, self._step)
            if self._ranks is None:
                restore_random_numbers(state)
        except BaseException:
            self._abandon()
            raise

    def _await_retrace(self, checkpoint_replay: CheckpointReplay) -> None:
        if self._ranks is None:
            checkpoint_replay.await_mail()
            return
        refusal = ""
        try:
            checkpoint_replay.await_mail()
        except CheckpointRefused as error:
            refusal = str(error)
        # Where one rank cannot go on none does, or it would wait for the others for ever.
        if reasons := self._ranks.reasons(refusal):
            raise CheckpointRefused(reasons)

    def _act(self, loss: Tensor) -> None:
        """Do what this step is for."""
        reports = self._step % self._interval == 0
        if reports:
            # Before decisions are read that follow from it, on every rank.
            self._seed_manager.end_embargoes(self._step, self._interval)
        if self._checkpoint_replay is not None:
            self._step_again(self._checkpoint_replay, loss)
            return
        if self._governor is not None:
            self._governor.observe(loss, self._step)
        if reports:
            self._link.take()
        if self._replay is not None:
            self._replay.apply(self._step)
        elif self._decision_queue.stirs:
            self._decision_queue.take(self._step)
        self._settle()
        if reports:
            self._check_optimizer()
        if reports and self._may_report():
            self._report(self._measure(), loss)

    def _settle(self) -> None:
        """After the plans of a step: take note of them, and move on what blends."""
        if self._governor is not None:
            self._governor.note_plans(self._step)
        self._seed_manager.ramp(self._step)
        capture_due()

    def _await_gradients(self) -> None:
        """Have gradients measured in the next step, if that is to be reported with them."""
        if self._gradients is not None and (self._step + 1) % self._interval == 0:
            self._seed_manager.measure_gradients(self._gradients)

    def _begin(self) -> None:
        if self._lockstep is not None:
            self._lockstep.await_kernels()
        if self._governor is not None:
            self._governor.begin()
        if self._link.reports:
            self._remember(self._link.memory)
            self._report(self._measure(), None)

    def _remember(self, memory: MemorySnapshot | None) -> None:
        """Put what earlier runs found into the opening, from where alone decisions have it."""
        if memory is None:
            return
        self._reporter.run_config = self._reporter.run_config.model_copy(update={"memory": memory})
        if memory.note is not None:
            log.warning("run %s begins without memory of others: %s", self.run_id, memory.note)

    def _abandon(self) -> None:
        self._closed = True
        self._seed_manager.close()
        self._link.close(leave_open=self._goes_on)

    def _step_again(self, checkpoint_replay: CheckpointReplay, loss: Tensor) -> None:
        """Do at this step what was done at it before, as the record has it."""
        if self._governor is not None:
            self._governor.observe_replayed(
                loss, self._step, checkpoint_replay.incidents(self._step)
            )
        checkpoint_replay.take(self._step)
        self._settle()
        checkpoint_replay.pass_by(self._step)
        if not checkpoint_replay.over:
            return
        self._checkpoint_replay = None
        if self._lockstep is not None:
            self._lockstep.await_answer(self._reporter.next_seq - 1, self._step)

    def _end(self, measure: Callable[[], ProbeResult], *, failed: bool = False) -> None:
        if self._closed:
            return
        self._closed = True
        if self._decision_vote is not None:
            self._decision_vote.close(failed=failed)
        self._link.part_from_ranks()
        leave_open = self._checkpoint_replay is not None or (failed and self._goes_on)
        if leave_open and self._link.reports:
            log.warning("run %s is left open, to go on from a checkpoint", self.run_id)
        try:
            if self._link.reports and not leave_open and not (failed and self._replay):
                self._report_last(measure)
        finally:
            self._seed_manager.close()
            self._link.close(leave_open=leave_open)
        if self._ranks is not None and not failed:
            self._ranks.part()

    def _report_last(self, measure: Callable[[], ProbeResult]) -> None:
        broken = self._lockstep is not None and self._lockstep.broken
        deadline = time.monotonic() + (0.0 if broken else self._seal_timeout_s)
        if self._link.wait_free(deadline):
            self._report(measure(), None, closing=True)
            self._await_seal(deadline)
        else:
            log.warning("run %s ends without its last report", self.run_id)

    def _measure(self) -> ProbeResult:
        return self._probe.measure(self._model, self._seed_manager.sites)

    def _report(self, measured: ProbeResult, loss: Tensor | None, *, closing: bool = False) -> None:
        self._decision_queue.note_contributions(measured)
        report = self._reporter.next(
            self._seed_manager.sites,
            measured,
            step=self._step,
            train_loss=loss,
            gradients=None if self._gradients is None or closing else self._gradients.take(),
            closing=closing,
        )
        self._link.report(report)
        if self._lockstep is not None and not closing:
            self._lockstep.await_answer(report.seq, self._step)

    def _may_report(self) -> bool:
        if self._lockstep is None:
            return self._link.free()
        # Every report before was answered, or the run is broken.
        self._lockstep.check()
        return True

    def _check_optimizer(self) -> None:
        if not self._seed_manager.optimizer_stepped():
            log.warning(
                "the optimizer given to grow took no step since the last report; if another one "
                "trains the model now, tell growth.use(optimizer)"
            )

    def _await_seal(self, deadline: float) -> None:
        while not self.run_history.sealed and time.monotonic() < deadline:
            time.sleep(0.005)
            self._decision_queue.take_seal()
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


def _unmeasured() -> ProbeResult:
    return ProbeResult(loss=None, contributions={})
