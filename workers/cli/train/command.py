"""`esper train`: a shipped task, growing, against the stack that runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from esper.settings import Settings
from esper.workers.cli.option_groups import grouped
from esper.workers.cli.output import Json, print_json
from esper.workers.cli.train.policy_options import PolicyOptions
from esper.workers.cli.train.replay_options import ReplayOptions, TrainingSetup, take_up

TASKS = ("digits", "resnet", "conv-teacher", "charlm")
"""Named here too, so that help and wrong use load no torch."""

DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Training:
    """How a task is to be trained."""

    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Passes over the data. Default: the task's own."),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Seeds weights, batches and decisions. Default: 0."),
    ] = None
    export: Annotated[
        Path | None, typer.Option(help="Folder for the grown network. Default: ESPER_HOME/grown")
    ] = None
    device: Annotated[str, typer.Option(help="Where to train: cpu, or cuda.")] = "cpu"
    lockstep: Annotated[
        bool,
        typer.Option(
            "--lockstep",
            help="Wait for the answer to each report: with the same seed and blueprints, the same "
            "bits on a CPU. For experiments; slower.",
        ),
    ] = False
    memory: Annotated[
        bool | None,
        typer.Option(
            "--memory/--no-memory",
            help="Begin with what earlier runs of the task found, and leave to later ones what "
            "this one finds. Default: yes, but not with --lockstep.",
        ),
    ] = None
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="Keep the training in this file after each epoch, and go on from it where it is "
            "there already; removed when the training has ended well.",
        ),
    ] = None

    @property
    def needs_deciding(self) -> list[str]:
        """What was asked for that has a meaning only where a worker decides, as options."""
        asked = {
            "--lockstep": self.lockstep,
            "--memory": self.memory is not None,
            "--checkpoint": self.checkpoint is not None,
        }
        return [name for name, given in asked.items() if given]

    def told(self, task: str) -> dict[str, str | int | bool]:
        """What a training's file must be told alike each time, to go on with one training."""
        return {
            "task": task,
            "seed": self.seed or 0,
            "device": self.device,
            "lockstep": self.lockstep,
        }


@grouped
def train(
    task: Annotated[str, typer.Argument(help=f"One of: {', '.join(TASKS)}.")],
    training: Training,
    choosing: PolicyOptions,
    again: ReplayOptions,
    json: Json = False,
) -> None:
    """Train a shipped task while it grows, and export the grown network.

    Needs a broker and workers: `esper up`. Ctrl-C or SIGTERM ends the run cleanly; with
    --checkpoint it stays open, and the same command goes on with it, also after a crash.
    """
    if task not in TASKS:
        raise typer.BadParameter(f"no task {task!r}; there are: {', '.join(TASKS)}")
    if training.device not in DEVICES:
        raise typer.BadParameter(f"no device {training.device!r}; there are: {', '.join(DEVICES)}")
    again.check([*training.needs_deciding, *choosing.given], training.seed)
    import torch

    import esper.tasks
    from esper.workers.cli.progress import stoppable_training
    from esper.workers.cli.train.summary import summary
    from esper.workers.cli.train.summary_tables import print_summary
    from esper.workers.cli.train.trainer import GrowOptions, grow_task

    if training.device == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter("torch finds no CUDA device here; train on --device cpu")
    chosen = esper.tasks.TASKS[task]
    settings = Settings()
    epochs, checkpoint = training.epochs or chosen.epochs, training.checkpoint
    seed, export_under = training.seed or 0, training.export or settings.home / "grown"
    if again.given:
        terms = TrainingSetup(settings, chosen, epochs, training.device, export_under)
        take_up(again, terms, seed, json)
        return
    policy, selection = choosing.chosen(chosen.sites)
    told = training.told(task)
    kept = None if checkpoint is None else esper.tasks.TrainingCheckpoint(checkpoint, told, epochs)
    with stoppable_training(epochs, lambda: _last_words(checkpoint), quiet=json) as progress:
        if kept is not None and kept.epoch:
            progress.note(f"{checkpoint}: going on after epoch {kept.epoch} of {epochs}")
        run = grow_task(
            settings,
            chosen,
            seed=seed,
            epochs=epochs,
            export_under=export_under,
            on_start=progress.started,
            on_epoch=progress.epoch,
            device=training.device,
            kept=kept,
            options=GrowOptions(
                policy,
                selection,
                training.lockstep,
                training.memory,
                report_every=choosing.report_every,
                slots=choosing.slots,
            ),
        )
    facts = summary(run)
    if json:
        print_json(facts)
    else:
        print_summary(facts)


def _last_words(checkpoint: Path | None) -> str:
    if checkpoint is not None and checkpoint.exists():
        return f"stopped; the same command goes on from {checkpoint}"
    return "stopped; the run is closed and can be audited"
