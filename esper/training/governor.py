"""The governor: removes seeds on trial that spoil the training, and restores a snapshot.

The governor reads only the training loss. A gradient that is not finite shows in the next loss, and
under mixed precision scaled gradients overflow in normal operation.
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
from esper.training.snapshots import Snapshot, SnapshotRing, SnapshotScope

log = logging.getLogger("esper")


class Governor:
    """Observes the loss of every step and rolls back when a seed on trial has spoiled the training.

    An alarm removes the seeds of the newest decision with a seed on trial, and all seeds planted
    after the snapshot that is restored; without a good snapshot it only removes seeds. Seeds culled
    since the snapshot stay culled. Fossilized seeds belong to the host: an alarm without a seed on
    trial changes nothing. Snapshots that lack a fossilized seed's parameters are dropped when it is
    fossilized; a merge drops all snapshots, because their layer weights lack the merged kernel.

    `planted_at` maps a decision id to the step of its application; `note` takes each incident. The
    same losses at the same steps lead to the same actions.
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
        self._monitor = LossMonitor(settings)
        self.ring = SnapshotRing(model, settings.snapshots, settings.snapshot_bytes)
        self._buffer = LossBuffer(report_every)
        self._report_every = report_every
        # A multiple of the step alone, so that a resumed run takes the same snapshots.
        self._snapshot_every = -(-settings.confirm_steps // report_every) * report_every
        self._plans = seed_manager.applied_plans
        self._host_reported = False

    @property
    def loss_monitor_state(self) -> LossMonitorState:
        """The state of the loss monitor, for a checkpoint."""
        return self._monitor.state

    def begin(self) -> None:
        """Take a good snapshot of the run's first state."""
        if (first := self._take(0)) is not None:
            first.good = True

    def resume(self, loss_monitor_state: LossMonitorState, *, host_reported: bool) -> None:
        """Continue from a checkpoint, which holds no snapshots.

        `host_reported`: an incident of the host was noted before. The first snapshot is taken after
        the first step, when the weights are certainly loaded.
        """
        self._monitor.load_state(loss_monitor_state)
        self._host_reported = host_reported

    def observe(self, loss: Tensor, step: int) -> None:
        """Take the loss of a step and act on an alarm, before any other work of the step."""
        alarm = self._read(loss, step)
        if alarm is not None:
            self._act(*alarm, step)
        elif not len(self.ring) and self.ring.scope is not SnapshotScope.NOTHING:
            self.restart_snapshots(step)
        self._take_when_due(step)

    def observe_replayed(self, loss: Tensor, step: int, recorded: Iterable[Incident]) -> None:
        """Take the loss of a step that is done again after a checkpoint; repeat recorded incidents.

        Raises:
            CheckpointRefused: an incident restored a snapshot of before the checkpoint.
        """
        alarm = self._read(loss, step)
        if alarm is not None and not self._trials():
            self._monitor.reset()
        for incident in recorded:
            self._repeat(incident, step)
        self._take_when_due(step)

    def note_plans(self, step: int) -> None:
        """Adapt monitor and snapshots to the plans applied at this step, if any."""
        if self._seed_manager.applied_plans == self._plans:
            return
        self._plans = self._seed_manager.applied_plans
        self._settle(step)
        kept = [slot for slot in self._slots() if slot.state is SeedState.FOSSILIZED]
        if any(slot.merged_sha256 and slot.since_step == step for slot in kept):
            self.restart_snapshots(step)
        beside = [slot for slot in kept if slot.merged_sha256 is None]
        self.ring.keep_only_with(
            parameter
            for slot in beside
            for parameter in self._seed_manager.sites[slot.site].seed(slot.index).parameters()
        )
        trials = self._trials()
        if not trials:
            self._monitor.clear_baseline()
        elif any(self._planted_at(name) == step for name in map(_decision_of, trials)):
            self._monitor.set_baseline()

    def restart_snapshots(self, step: int) -> None:
        """Drop all snapshots, which no longer fit the model, and take a new one."""
        self.ring.clear()
        taken = self._take(step)
        if taken is not None:
            taken.good = self._monitor.healthy_steps >= self._settings.confirm_steps

    def _settle(self, step: int) -> None:
        """Extend the settle window for culled seeds and for seeds whose alpha changes."""
        for slot in self._slots():
            if slot.state is SeedState.CULLED:
                self._monitor.settle(slot.since_step - step)
            elif slot.state is SeedState.BLENDING and slot.reweighted is not None:
                self._monitor.settle(slot.since_step + slot.reweighted.ramp_steps - step)

    def _read(self, loss: Tensor, step: int) -> tuple[IncidentKind, float] | None:
        """Update the monitor with the losses that can be read now, up to the first alarm."""
        for value in self._buffer.read(loss, now=step % self._report_every == 0):
            kind = self._monitor.update(value)
            if kind is not None:
                return kind, value
        return None

    def _take_when_due(self, step: int) -> None:
        if step % self._report_every:
            return
        self.ring.confirm(step, self._monitor.healthy_steps, self._settings.confirm_steps)
        host_only = not self._trials()
        if host_only or step % self._snapshot_every == 0:
            taken = self._take(step)
            if taken is not None and host_only:
                # No seed can have spoiled this state.
                taken.good = self._monitor.healthy_steps > 0

    def _take(self, step: int) -> Snapshot | None:
        alphas = [seed.alpha for _, seed in self._seed_manager.planted()]
        return self.ring.take(step, self._monitor.state, self._seed_manager.optimizer, alphas)

    def _act(self, kind: IncidentKind, loss: float, step: int) -> None:
        trials = self._trials()
        if not trials:
            self._note_host_incident(kind, loss, step)
            return
        newest = max(map(self._rank, trials))
        snapshot = self.ring.last_good()
        spoiled = [
            (slot, seed)
            for slot, seed in self._seed_manager.planted()
            if slot.state in ON_TRIAL
            and (
                self._rank((slot, seed)) == newest
                or (snapshot is not None and not snapshot.holds(seed.parameters()))
            )
        ]
        self._roll_back(kind, loss, step, snapshot, [slot for slot, _ in spoiled])

    def _repeat(self, incident: Incident, step: int) -> None:
        if not incident.seeds:
            self._host_reported = True
            self._note(incident)
            return
        snapshot = None
        if incident.restored_step is not None:
            snapshot = self.ring.at_step(incident.restored_step)
            if snapshot is None:
                raise CheckpointRefused(
                    f"at step {step} the run returned to step {incident.restored_step}, of which "
                    "there is no snapshot here; resume from a checkpoint of before that step, or "
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
            self._monitor.reset()
        else:
            self.ring.restore(snapshot, self._seed_manager.optimizer)
            self._monitor.return_to(snapshot.loss_monitor_state)
        # The rest of the model has not trained a step without the removed seeds.
        self._monitor.settle(0)
        if not self._trials():
            self._monitor.clear_baseline()
        log.warning(
            "%s at step %d: %s rolled back, the run is %s",
            kind,
            step,
            ", ".join(f"{seed.site}/{seed.slot}" for seed in seeds),
            "not restored, because no snapshot is good"
            if snapshot is None
            else f"restored to step {snapshot.step}",
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

    def _note_host_incident(self, kind: IncidentKind, loss: float, step: int) -> None:
        self._monitor.reset()
        if self._host_reported:
            return
        self._host_reported = True
        log.warning(
            "%s at step %d with no seed on trial: the host causes it, and nothing is changed",
            kind,
            step,
        )
        self._note(Incident(kind=kind, step=step, loss=None if kind is IncidentKind.NAN else loss))

    def _slots(self) -> Iterable[Slot]:
        return (slot for site in self._seed_manager.sites.values() for slot in site.slots)

    def _trials(self) -> list[tuple[Slot, Seed]]:
        return [pair for pair in self._seed_manager.planted() if pair[0].state in ON_TRIAL]

    def _rank(self, pair: tuple[Slot, Seed]) -> tuple[int, str]:
        """Return a key that orders seeds by planting; seeds of one decision have one key."""
        name = _decision_of(pair)
        return self._planted_at(name), name


class LossBuffer:
    """Returns losses as floats, in their order, without synchronising with a GPU at every step.

    A loss on the CPU is returned immediately. Losses on a GPU are collected there, up to `most`,
    and read at a report, which synchronises anyway.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._ring: Tensor | None = None
        self._count = 0

    def read(self, loss: Tensor, *, now: bool) -> list[float]:
        """Take the loss of a step; return the losses that can be read, all of them if `now`."""
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
