"""Training a shipped task so that it grows, and what to tell of it afterwards."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

import esper
from esper.bandit import DEFAULT_SELECTION
from esper.settings import Settings
from esper.tasks.checkpoint import TrainingCheckpoint
from esper.tasks.train import DatasetSplits, OnEpoch, Task, TaskResult, train_task
from esper.topics.models import PolicySpec, Selection
from esper.training import CheckpointRefused, Growth, Recording, RecordUnfit
from esper.training.lineage import RunHistory

Announce = Callable[[str], None]

REPORT_EVERY = 20
"""More often than the default, which is for longer trainings: a demonstration lasts a minute."""

SLOTS = 2
"""Seeds of each site."""


@dataclass(frozen=True, slots=True)
class GrownRun:
    """A finished run that grew: its result, its record, and where the network was exported.

    `went_on_after` is how many epochs an earlier process had trained, None where none had.
    """

    run_id: str
    result: TaskResult
    run_history: RunHistory
    exported: Path
    went_on_after: int | None = None

    @property
    def decision_to_active_ms(self) -> list[float]:
        """From each applied decision's record to its taking effect, in milliseconds."""
        outcomes = self.run_history.outcomes.values()
        return [each.latency_ms for each in outcomes if each.latency_ms is not None]


@dataclass(frozen=True, slots=True)
class GrowOptions:
    """How a run is decided: by which bandits, with what memory, and whether training waits.

    Or by a record, which then says all of this.
    """

    policy: PolicySpec | None = None
    selection: Selection | None = None
    lockstep: bool = False
    memory: bool | None = None
    replay: Recording | None = None
    report_every: int = REPORT_EVERY
    slots: int = SLOTS


DEFAULT_OPTIONS = GrowOptions()


def grow_task(
    settings: Settings,
    task: Task,
    *,
    seed: int,
    epochs: int,
    export_under: Path,
    on_start: Announce,
    on_epoch: OnEpoch,
    device: str = "cpu",
    kept: TrainingCheckpoint | None = None,
    options: GrowOptions = DEFAULT_OPTIONS,
) -> GrownRun:
    """Train a task through the public API, export it under a folder, and return the run.

    With a file it goes on from what is kept there, if anything is, and removes it at the end. A
    replay ends with the step with which its record does.

    Raises:
        BrokerUnreachable, NotConfigured: there is nothing to grow with; the message says why.
        LockstepBroken: in a lockstep run, what it waits for did not come.
        CheckpointUnusable: the run of the file does not go on, or the file cannot be written.
        ReplayRefused, ReplayDiffers: this is not the training that is on record.
    """
    # The hosts are too small to share between threads, and the workers want the other cores.
    torch.set_num_threads(1)
    growths: list[Growth] = []

    def attach(model: nn.Module, optimizer: Optimizer, splits: DatasetSplits) -> Growth:
        growth = _growing(settings, task, seed, options, kept, model, optimizer, splits)
        growths.append(growth)
        if kept is not None:
            kept.growth_state = growth.state_dict
        on_start(growth.run_id)
        return growth

    result = train_task(
        task, seed, epochs, attach, on_epoch, device, kept, should_stop=lambda: growths[0].replayed
    )
    growth = growths[0]
    name = growth.run_id if options.replay is None else f"{growth.run_id}-replay"
    exported = growth.export(export_under / name)
    if kept is not None:
        # Not before the export: until then it has the only copy of the weights.
        kept.remove()
    return GrownRun(
        run_id=growth.run_id,
        result=result,
        run_history=growth.run_history,
        exported=exported,
        went_on_after=kept.epoch if kept and kept.state else None,
    )


def _growing(
    settings: Settings,
    task: Task,
    seed: int,
    options: GrowOptions,
    kept: TrainingCheckpoint | None,
    model: nn.Module,
    optimizer: Optimizer,
    splits: DatasetSplits,
) -> Growth:
    """Attach growth to the host of a task, with what is kept of it, if anything is."""
    try:
        return esper.grow(
            model,
            optimizer,
            sites=task.sites,
            probe=splits.probe,
            loss_fn=task.loss,
            run=task.name,
            slots=options.slots,
            report_every=options.report_every,
            seed=seed,
            policy=options.policy,
            selection=task.allowed(options.selection or DEFAULT_SELECTION),
            settings=settings,
            lockstep=options.lockstep,
            memory=options.memory,
            resume=kept.state["growth"] if kept and kept.state else None,
            replay=options.replay,
        )
    except (CheckpointRefused, RecordUnfit) as error:
        if kept is None:
            raise
        raise kept.refusal(error) from error
