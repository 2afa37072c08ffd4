"""`esper train`: train a shipped task that grows, with the broker and workers of the settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from esper.settings import Settings
from esper.workers.cli.option_groups import config_help, grouped
from esper.workers.cli.output import Json, print_json
from esper.workers.cli.train.policy_options import PolicyOptions
from esper.workers.cli.train.replay_options import ReplayOptions, TrainingSetup, train_earlier_run

if TYPE_CHECKING:
    from esper.workers.cli.train.trainer import GrownRun

TASKS = ("digits", "mnist1d", "mnist1d-shuffled", "resnet", "conv-teacher", "charlm")
"""Repeated here, so that help and usage errors load no torch."""

DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class TrainingOptions:
    """How the task is trained."""

    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Passes over the data. Default: the task's own."),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Seed of weights, batches and decisions. Default: 0."),
    ] = None
    export: Annotated[
        Path | None, typer.Option(help="Folder for the grown network. Default: ESPER_HOME/grown")
    ] = None
    device: Annotated[str, typer.Option(help="Device to train on: cpu or cuda.")] = "cpu"
    lockstep: Annotated[
        bool,
        typer.Option(
            "--lockstep",
            help=config_help("lockstep"),
        ),
    ] = False
    memory: Annotated[
        bool | None,
        typer.Option(
            "--memory/--no-memory",
            help=config_help("memory"),
        ),
    ] = None
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="Write a checkpoint to this file after each epoch. If the file exists, resume "
            "from it. Removed when training completes.",
        ),
    ] = None

    @property
    def needing_decisions(self) -> list[str]:
        """Return the given options that apply only when a bandit worker decides."""
        given = {
            "--lockstep": self.lockstep,
            "--memory": self.memory is not None,
            "--checkpoint": self.checkpoint is not None,
        }
        return [name for name, is_given in given.items() if is_given]

    def identity(self, task: str) -> dict[str, str | int | bool]:
        """Return the options that must be the same when a checkpoint is resumed."""
        return {
            "task": task,
            "seed": self.seed or 0,
            "device": self.device,
            "lockstep": self.lockstep,
        }


@grouped
def train(
    task: Annotated[str, typer.Argument(help=f"One of: {', '.join(TASKS)}.")],
    training: TrainingOptions,
    policy: PolicyOptions,
    replay: ReplayOptions,
    json: Json = False,
) -> None:
    """Train a shipped task while it grows, and export the grown network.

    Needs a broker and workers: run `esper up` first. Ctrl-C or SIGTERM closes the run. With
    --checkpoint the run stays open: the same command resumes it, also after a crash.
    """
    if task not in TASKS:
        raise typer.BadParameter(f"no task {task!r}; use one of: {', '.join(TASKS)}")
    if training.device not in DEVICES:
        raise typer.BadParameter(f"no device {training.device!r}; use one of: {', '.join(DEVICES)}")
    replay.check([*training.needing_decisions, *policy.given], training.seed)
    import torch

    import esper.tasks

    if training.device == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter("torch finds no CUDA device; use --device cpu")
    settings, chosen = Settings(), esper.tasks.TASKS[task]
    setup = TrainingSetup(
        settings=settings,
        task=chosen,
        epochs=training.epochs or chosen.epochs,
        device=training.device,
        export_under=training.export or settings.home / "grown",
    )
    if replay.given:
        train_earlier_run(replay, setup, training.seed or 0, json)
        return
    _print_run(_train(setup, training, policy, quiet=json), json)


def _train(
    setup: TrainingSetup, training: TrainingOptions, policy: PolicyOptions, *, quiet: bool
) -> "GrownRun":
    from esper.tasks import TrainingCheckpoint
    from esper.workers.cli.progress import stoppable_training
    from esper.workers.cli.train.trainer import GrowOptions, grow_task

    spec, selection = policy.policy_and_selection(setup.task.sites, auditions=setup.task.auditions)
    file, checkpoint = training.checkpoint, None
    if file is not None:
        checkpoint = TrainingCheckpoint(file, training.identity(setup.task.name), setup.epochs)
    with stoppable_training(setup.epochs, lambda: _stop_message(file), quiet=quiet) as progress:
        if checkpoint is not None and checkpoint.epoch:
            progress.note(f"{file}: resuming after epoch {checkpoint.epoch} of {setup.epochs}")
        return grow_task(
            setup.settings,
            setup.task,
            seed=training.seed or 0,
            epochs=setup.epochs,
            export_under=setup.export_under,
            on_start=progress.started,
            on_epoch=progress.epoch,
            device=setup.device,
            checkpoint=checkpoint,
            options=GrowOptions(
                policy=spec,
                selection=selection,
                lockstep=training.lockstep,
                memory=training.memory,
                report_every=policy.report_every,
                slots=policy.slots,
            ),
        )


def _print_run(run: "GrownRun", json: bool) -> None:
    from esper.workers.cli.train.summary import summary
    from esper.workers.cli.train.summary_tables import print_summary

    facts = summary(run)
    if json:
        print_json(facts)
    else:
        print_summary(facts)


def _stop_message(checkpoint: Path | None) -> str:
    if checkpoint is not None and checkpoint.exists():
        return f"stopped; the same command resumes from {checkpoint}"
    return "stopped; the run is closed and can be audited"
