"""The governor: a kernel on trial that spoils the training is taken out, and the time undone.

It reads the training loss and nothing else. A gradient that is not finite shows in the next loss,
and under mixed precision scaled gradients overflow as a matter of course.
"""

import logging
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from esper.seed import Seed, Slot
from esper.topics.models import Incident, IncidentKind, RolledBackSeed, SeedState
from esper.training.checkpoint import CheckpointRefused
from esper.training.loss_monitor import GovernorSettings, LossMonitor, LossMonitorState
from esper.training.probe import ON_TRIAL
from esper.training.seed_manager import SeedManager
from esper.training.snapshots import Reach, Snapshot, SnapshotRing

log = logging.getLogger("esper")


class Governor:
    """Watches a run step by step, and takes it back when something planted has spoiled it.

    On an alarm the kernels of the newest decision that has any on trial leave the model, and so
    do those planted after the snapshot that is restored. What was culled since does not come back.
    What is kept for good beside its layer is restored with the rest; snapshots from before it was
    planted are dropped when it is kept, and all of them when a kernel merges into its layer, whose
    older weights would lack it: the next is taken at once. Where no snapshot is good, only the
    kernels leave.

    With nothing on trial the run is left alone: then it is the host's own. What has been kept for
    good is part of the host.

    `planted_at` gives the step at which a decision was applied, `note` gets each incident. The same
    losses at the same steps lead to the same acts.
    """

    def __init__(
        self,
        settings: GovernorSettings,
        model: nn.Module,
        seed_manager: SeedManager,
        report_every: int,
        planted_at: Callable[[str], int],
        note: Callable[[Incident], None],
    ) -> None:
        self._settings = settings
        self._seed_manager = seed_manager
        self._planted_at = planted_at
        self._note = note
        self._watch = LossMonitor(settings)
        self.ring = SnapshotRing(model, settings.snapshots, settings.snapshot_bytes)
        self._gauge = LossBuffer(report_every)
        self._report_every = report_every
        # By the step alone, so that a run which goes on from a checkpoint takes the same ones.
        self._every = -(-settings.confirm_steps // report_every) * report_every
        self._plans = seed_manager.applied_plans
        self._told = False

    @property
    def loss_monitor_state(self) -> LossMonitorState:
        """What it knows of the loss."""
        return self._watch.loss_monitor_state

    def begin(self) -> None:
        """Keep what the run begins with, which is good."""
        if (first := self._take(0)) is not None:
            first.good = True

    def resume(self, loss_monitor_state: LossMonitorState, *, told: bool) -> None:
        """Go on from a checkpoint, which holds no snapshots; `told` is of a host by itself.

        The first is taken after the first step, when the weights are sure to be loaded.
        """
        self._watch.resume(loss_monitor_state)
        self._told = told

    def observe(self, loss: Tensor, step: int) -> None:
        """Look at the loss of a step, before anything else is done in it."""
        alarm = self._look(loss, step)
        if alarm is not None:
            self._act(*alarm, step)
        elif not len(self.ring) and self.ring.reach is not Reach.NOTHING:
            self.restart_snapshots(step)
        self._keep(step)

    def observe_replayed(self, loss: Tensor, step: int, recorded: Iterable[Incident]) -> None:
        """Do at this step what is on record for it, whatever the loss is now.

        Raises:
            CheckpointRefused: it went back to before the checkpoint.
        """
        alarm = self._look(loss, step)
        if alarm is not None and not self._trials():
            self._watch.forget()
        for incident in recorded:
            self._act_again(incident, step)
        self._keep(step)

    def note_plans(self, step: int) -> None:
        """Take note of plans that were applied; costs nothing where none was."""
        if self._seed_manager.applied_plans == self._plans:
            return
        self._plans = self._seed_manager.applied_plans
        self._settle(step)
        kept = [slot for slot in self._slots() if slot.state is SeedState.FOSSILIZED]
        if any(slot.merged_sha256 and slot.since_step == step for slot in kept):
            self.restart_snapshots(step)
        beside = [slot for slot in kept if slot.merged_sha256 is None]
        self.ring.keep_only_with(
            each
            for slot in beside
            for each in self._seed_manager.sites[slot.site].seed(slot.index).parameters()
        )
        trials = self._trials()
        if not trials:
            self._watch.clear_baseline()
        elif any(self._planted_at(name) == step for name in map(_decision_of, trials)):
            self._watch.planted()

    def restart_snapshots(self, step: int) -> None:
        """Keep no snapshot from before: to go back there would not be possible, or not right."""
        self.ring.clear()
        taken = self._take(step)
        if taken is not None:
            taken.good = self._watch.healthy_steps >= self._settings.confirm_steps

    def _settle(self, step: int) -> None:
        """Let what stays learn to do without what was culled, or with what is weighed anew."""
        for slot in self._slots():
            if slot.state is SeedState.CULLED:
                self._watch.settle(slot.since_step - step)
            elif slot.state is SeedState.BLENDING and slot.reweighted is not None:
                self._watch.settle(slot.since_step + slot.reweighted.ramp_steps - step)

    def _look(self, loss: Tensor, step: int) -> tuple[IncidentKind, float] | None:
        """Take in the losses that can be read now; what came after an alarm is not looked at."""
        for value in self._gauge.read(loss, now=step % self._report_every == 0):
            kind = self._watch.see(value)
            if kind is not None:
                return kind, value
        return None

    def _keep(self, step: int) -> None:
        if step % self._report_every:
            return
        self.ring.confirm(step, self._watch.healthy_steps, self._settings.confirm_steps)
        own = not self._trials()
        if own or step % self._every == 0:
            taken = self._take(step)
            if taken is not None and own:
                # No kernel can have spoilt it: this is where the run would be without any.
                taken.good = self._watch.healthy_steps > 0

    def _take(self, step: int) -> Snapshot | None:
        alphas = [seed.alpha for _, seed in self._seed_manager.planted()]
        return self.ring.take(
            step, self._watch.loss_monitor_state, self._seed_manager.optimizer, alphas
        )

    def _act(self, kind: IncidentKind, loss: float, step: int) -> None:
        trials = self._trials()
        if not trials:
            self._leave_alone(kind, loss, step)
            return
        newest = max(map(self._rank, trials))
        snapshot = self.ring.last_good()
        spoilt = [
            (slot, seed)
            for slot, seed in self._seed_manager.planted()
            if slot.state in ON_TRIAL
            and (
                self._rank((slot, seed)) == newest
                or (snapshot is not None and not snapshot.holds(seed.parameters()))
            )
        ]
        self._roll_back(kind, loss, step, snapshot, [slot for slot, _ in spoilt])

    def _act_again(self, incident: Incident, step: int) -> None:
        if not incident.seeds:
            self._told = True
            self._note(incident)
            return
        snapshot = None
        if incident.restored_step is not None:
            snapshot = self.ring.of_step(incident.restored_step)
            if snapshot is None:
                raise CheckpointRefused(
                    f"at step {step} the run went back to step {incident.restored_step}, of which "
                    "there is no snapshot here; go on from a checkpoint of before that step, or "
                    f"of after step {step}"
                )
        slots = [self._seed_manager.sites[seed.site].slots[seed.slot] for seed in incident.seeds]
        self._roll_back(incident.kind, incident.loss, step, snapshot, slots)

    def _roll_back(
        self,
        kind: IncidentKind,
        loss: float | None,
        step: int,
        snapshot: Snapshot | None,
        slots: list[Slot],
    ) -> None:
        seeds = tuple(_rolled_back(slot) for slot in slots)
        self._seed_manager.roll_back(slots, step)
        if snapshot is None:
            self._watch.forget()
        else:
            self.ring.put_back(snapshot, self._seed_manager.optimizer)
            self._watch.go_back(snapshot.loss_monitor_state)
        # What stays has done without what went, no step yet.
        self._watch.settle(0)
        if not self._trials():
            self._watch.clear_baseline()
        log.warning(
            "%s at step %d: %s rolled back, the run is %s",
            kind,
            step,
            ", ".join(f"{seed.site}/{seed.slot}" for seed in seeds),
            "not restored, for no snapshot is good"
            if snapshot is None
            else f"as of step {snapshot.step} again",
        )
        self._note(
            Incident(
                kind=kind,
                step=step,
                loss=None if kind is IncidentKind.NAN else loss,
                restored_step=None if snapshot is None else snapshot.step,
                seeds=seeds,
            )
        )

    def _leave_alone(self, kind: IncidentKind, loss: float, step: int) -> None:
        self._watch.forget()
        if self._told:
            return
        self._told = True
        log.warning(
            "%s at step %d with nothing on trial: the host does this by itself, and is left alone",
            kind,
            step,
        )
        self._note(Incident(kind=kind, step=step, loss=None if kind is IncidentKind.NAN else loss))

    def _slots(self) -> Iterable[Slot]:
        return (slot for site in self._seed_manager.sites.values() for slot in site.slots)

    def _trials(self) -> list[tuple[Slot, Seed]]:
        return [pair for pair in self._seed_manager.planted() if pair[0].state in ON_TRIAL]

    def _rank(self, pair: tuple[Slot, Seed]) -> tuple[int, str]:
        """The later planted, the larger; alike for what one decision planted."""
        name = _decision_of(pair)
        return self._planted_at(name), name


class LossBuffer:
    """Gives the losses of steps as numbers, in their order, without ever waiting for a GPU.

    On a CPU each is given at once; on a GPU they are collected there, and read when told to, at a
    report, which waits for the GPU anyway.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._ring: Tensor | None = None
        self._count = 0

    def read(self, loss: Tensor, *, now: bool) -> list[float]:
        """Take in the loss of a step; return those that can be read."""
        loss = loss.detach()
        if loss.device.type == "cpu":
            return [float(loss)]
        if self._ring is None or self._ring.device != loss.device:
            self._ring = torch.zeros(self._most, device=loss.device)
            self._count = 0
        self._ring[self._count % self._most].copy_(loss.reshape(()))
        self._count += 1
        if not now:
            return []
        read: list[float] = self._ring[: self._count].tolist()
        self._count = 0
        return read


def _decision_of(pair: tuple[Slot, Seed]) -> str:
    return pair[0].decision_id or ""


def _rolled_back(slot: Slot) -> RolledBackSeed:
    assert slot.planted is not None
    assert slot.decision_id is not None
    return RolledBackSeed(
        site=slot.site,
        slot=slot.index,
        kernel_id=slot.planted.kernel_id,
        decision_id=slot.decision_id,
    )
