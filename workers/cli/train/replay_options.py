"""`esper train --replay` and `--static-final`: train an earlier run again, without a broker."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esper.settings import Settings
from esper.workers.cli.output import console, print_json, print_table

if TYPE_CHECKING:
    from esper.tasks import Task
    from esper.training import ReplayDiffers
    from esper.workers.cli.train.static_final import StaticRun

PANEL = "An earlier run, without a broker"
DIFFERENT = 1


def _option(help: str, **more: Any) -> Any:
    return typer.Option(help=help, rich_help_panel=PANEL, **more)


@dataclass(frozen=True)
class ReplayOptions:
    """Which earlier run is trained again, and where its kernels are."""

    replay: Annotated[
        Path | None,
        _option(
            "Apply the decisions of this exported history at their steps and compare the reports. "
            "Exits 1 and names the first report that differs.",
            dir_okay=False,
        ),
    ] = None
    static_final: Annotated[
        Path | None,
        _option(
            "Train the network of the run exported to this folder, with all its kernels planted "
            "before the first step. Runs the folder's model.py for the comparison.",
            file_okay=False,
        ),
    ] = None
    kernels: Annotated[
        str | None,
        _option(
            "Folder written by `esper history export --kernels`, or a kernel store. "
            "Default: ESPER_KERNEL_STORE.",
            metavar="FOLDER|STORE",
        ),
    ] = None

    @property
    def given(self) -> bool:
        """Return whether an earlier run is trained options."""
        return self.replay is not None or self.static_final is not None

    def check(self, deciding: Sequence[str], seed: int | None) -> None:
        """Refuse options that exclude each other; `deciding` names those that need decisions.

        Raises:
            BadParameter: options exclude each other.
        """
        if not self.given:
            if self.kernels is not None:
                raise typer.BadParameter("--kernels needs --replay or --static-final")
            return
        if self.replay is not None and self.static_final is not None:
            raise typer.BadParameter("give --replay or --static-final, not both")
        own = "--static-final" if self.replay is None else "--replay"
        if deciding:
            raise typer.BadParameter(
                f"{', '.join(deciding)} cannot be used with {own}: it needs no decisions"
            )
        if self.replay is not None and seed is not None:
            raise typer.BadParameter(
                "--seed cannot be used with --replay: the recording has the seed"
            )


@dataclass(frozen=True)
class TrainingSetup:
    """The task, and how it is trained."""

    settings: Settings
    task: "Task"
    epochs: int
    device: str
    export_under: Path


def train_earlier_run(options: ReplayOptions, setup: TrainingSetup, seed: int, json: bool) -> None:
    """Replay a run or train its static final; `seed` is for the latter."""
    if options.replay is not None:
        _replay(setup, options.replay, options.kernels, json)
    elif options.static_final is not None:
        _train_static(setup, options.static_final, options.kernels, seed, json)


def _replay(setup: TrainingSetup, history: Path, kernels: str | None, json: bool) -> None:
    """Replay the run of a history; print its facts, or its first difference."""
    from esper.training import ReplayDiffers, read_recording
    from esper.workers.cli.progress import stoppable_training
    from esper.workers.cli.train.summary import summary
    from esper.workers.cli.train.summary_tables import print_summary
    from esper.workers.cli.train.trainer import GrowOptions, grow_task

    recording = read_recording(history, kernels, setup.settings)
    try:
        with stoppable_training(setup.epochs, lambda: "stopped", quiet=json) as progress:
            run = grow_task(
                setup.settings,
                setup.task,
                seed=recording.run_config.seed,
                epochs=setup.epochs,
                export_under=setup.export_under,
                on_start=lambda run_id: progress.note(
                    f"run {run_id}: replaying {len(recording.reports)} reports of {history}"
                ),
                on_epoch=progress.epoch,
                device=setup.device,
                options=GrowOptions(replay=recording),
            )
    except ReplayDiffers as differs:
        if not json:
            raise
        print_json(_difference(differs))
        raise typer.Exit(DIFFERENT) from differs
    counts = {"reports": len(recording.reports), "decisions": len(recording.decisions)}
    facts = summary(run) | {"replay": {"identical": True, **counts}}
    if json:
        print_json(facts)
        return
    print_summary(facts)
    console.print(
        f"identical: {counts['reports']} reports and {counts['decisions']} decisions",
        soft_wrap=True,
    )


def _train_static(
    setup: TrainingSetup, folder: Path, kernels: str | None, seed: int, json: bool
) -> None:
    """Train the static final of an exported run; print its score and the grown network's."""
    from esper.training import kernel_store_of
    from esper.workers.cli.progress import stoppable_training
    from esper.workers.cli.train.static_final import train_static_final

    with stoppable_training(setup.epochs, lambda: "stopped", quiet=json) as progress:
        run = train_static_final(
            setup.settings,
            setup.task,
            folder,
            kernel_store=kernel_store_of(kernels, setup.settings),
            seed=seed,
            epochs=setup.epochs,
            export_under=setup.export_under,
            on_epoch=progress.epoch,
            device=setup.device,
        )
    facts = _static_facts(run)
    if json:
        print_json(facts)
        return
    print_table(
        ("", "test accuracy", "test loss", "parameters"),
        [
            (name, f"{row['test_accuracy']:.2%}", f"{row['test_loss']:.4f}", f"{row['params']:,}")
            for name, row in (("grown", facts["grown"]), ("static final", facts["static_final"]))
        ],
    )
    console.print(f"exported to {run.exported}", soft_wrap=True)


def _static_facts(run: "StaticRun") -> dict[str, Any]:
    result = run.result
    return {
        "run_id": run.run_id,
        "steps": result.steps,
        "exported": str(run.exported),
        "grown": asdict(run.grown),
        "static_final": {
            "test_accuracy": result.test_accuracy,
            "test_loss": result.test_loss,
            "params": result.params,
        },
    }


def _difference(differs: "ReplayDiffers") -> dict[str, Any]:
    first = None if differs.difference is None else asdict(differs.difference)
    return {
        "run_id": differs.run_id,
        "replay": {"identical": False, "first": first, "why": str(differs)},
    }
