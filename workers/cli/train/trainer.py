"""Train a shipped task through the public API of Esper."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

import esper
from esper.bandit import DEFAULT_POLICY, default_selection
from esper.settings import Settings
from esper.tasks import DatasetSplits, OnEpoch, Task, TaskResult, TrainingCheckpoint, train_task
from esper.topics.models import PolicySpec, Selection
from esper.training import CheckpointRefused, Growth, RecordUnfit, RunHistory, RunRecording

Announce = Callable[[str], None]

REPORT_EVERY = 20
"""Steps between reports; fewer than the default of `esper.grow`, because these tasks are short."""

SLOTS = 2
"""Slots per site."""


@dataclass(frozen=True, slots=True)
class GrownRun:
    """A finished run: its result, its history, and the folder of the exported network.

    `resumed_after` is the number of epochs that an earlier process trained; None if not resumed.
    """

    run_id: str
    result: TaskResult
    run_history: RunHistory
    exported: Path
    resumed_after: int | None = None

    @property
    def decision_to_active_ms(self) -> list[float]:
        """Return the time from each applied decision's record to its effect, in milliseconds."""
        outcomes = self.run_history.outcomes.values()
        return [o.latency_ms for o in outcomes if o.latency_ms is not None]


@dataclass(frozen=True, slots=True)
class GrowOptions:
    """How a run is decided and reported; with `replay`, the recording determines all the rest."""

    policy: PolicySpec | None = None
    selection: Selection | None = None
    lockstep: bool = False
    memory: bool | None = None
    replay: RunRecording | None = None
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
    checkpoint: TrainingCheckpoint | None = None,
    options: GrowOptions = DEFAULT_OPTIONS,
) -> GrownRun:
    """Train a task through the public API, export it under a folder, and return the run.

    Training resumes from `checkpoint` if its file exists; the file is removed at the end. A replay
    ends at the last recorded step.

    Raises:
        BrokerUnreachable: no broker answers.
        NotConfigured: a setting is missing.
        LockstepBroken: a lockstep run did not get its decisions in time.
        CheckpointUnusable: the run of the checkpoint cannot be resumed, or the file not written.
        ReplayRefused, ReplayDiffers: the training differs from the recording.
    """
    # The hosts are too small for several threads, and the workers need the other cores.
    torch.set_num_threads(1)
    growths: list[Growth] = []

    def attach(model: nn.Module, optimizer: Optimizer, splits: DatasetSplits) -> Growth:
        growth = _attach(settings, task, seed, options, checkpoint, model, optimizer, splits)
        growths.append(growth)
        if checkpoint is not None:
            checkpoint.growth_state = growth.state_dict
        on_start(growth.run_id)
        return growth

    result = train_task(
        task,
        seed,
        epochs,
        attach,
        on_epoch,
        device,
        checkpoint,
        should_stop=lambda: growths[0].replayed,
    )
    growth = growths[0]
    name = growth.run_id if options.replay is None else f"{growth.run_id}-replay"
    exported = growth.export(export_under / name)
    if checkpoint is not None:
        # Only after the export: before it the file has the only copy of the weights.
        checkpoint.remove()
    return GrownRun(
        run_id=growth.run_id,
        result=result,
        run_history=growth.run_history,
        exported=exported,
        resumed_after=checkpoint.epoch if checkpoint and checkpoint.state else None,
    )


def _attach(
    settings: Settings,
    task: Task,
    seed: int,
    options: GrowOptions,
    checkpoint: TrainingCheckpoint | None,
    model: nn.Module,
    optimizer: Optimizer,
    splits: DatasetSplits,
) -> Growth:
    """Attach growth to the host of a task: replay a recording, resume a checkpoint, or grow."""
    given: Any = {"sites": task.sites, "probe": splits.probe, "loss_fn": task.loss}
    if options.replay is not None:
        return esper.replay(options.replay, model, optimizer, **given)
    chosen = options.selection or default_selection(auditions=task.auditions)
    selection = task.allowed(chosen)
    if selection.auditions is not None:
        given["audition"] = splits.audition_samples
    config = esper.GrowConfig(
        policy=options.policy or DEFAULT_POLICY,
        selection=selection,
        settings=settings,
        lockstep=options.lockstep,
        memory=options.memory,
    )
    if checkpoint is None or not checkpoint.state:
        return esper.grow(
            model,
            optimizer,
            **given,
            run=task.name,
            slots=options.slots,
            report_every=options.report_every,
            seed=seed,
            config=config,
        )
    try:
        return esper.resume(checkpoint.state["growth"], model, optimizer, **given, config=config)
    except (CheckpointRefused, RecordUnfit) as error:
        raise checkpoint.refusal(error) from error
