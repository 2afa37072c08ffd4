"""`esper train` of what was trained before: a run replayed, or what it ended as from the start."""

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
    """Which earlier run is taken up, and where its kernels are."""

    replay: Annotated[
        Path | None,
        _option(
            "Take the decisions of this exported history at their steps, and compare: exits 1 "
            "and names the first report that differs.",
            dir_okay=False,
        ),
    ] = None
    static_final: Annotated[
        Path | None,
        _option(
            "Train what a run was exported as to this folder, with all its kernels planted before "
            "the first step. Runs the folder's model.py to compare.",
            file_okay=False,
        ),
    ] = None
    kernels: Annotated[
        str | None,
        _option(
            "A folder that `esper history export --kernels` wrote, or the URL of a kernel store. "
            "Default: the store of the settings.",
            metavar="FOLDER|URL",
        ),
    ] = None

    @property
    def given(self) -> bool:
        """Whether an earlier run is taken up."""
        return self.replay is not None or self.static_final is not None

    def check(self, deciding: Sequence[str], seed: int | None) -> None:
        """Refuse options that have no meaning together; `deciding` are those of a decided run.

        Raises:
            BadParameter: there are such.
        """
        if not self.given:
            if self.kernels is not None:
                raise typer.BadParameter("--kernels is for --replay and --static-final")
            return
        if self.replay is not None and self.static_final is not None:
            raise typer.BadParameter("give --replay or --static-final, not both")
        own = "--static-final" if self.replay is None else "--replay"
        if deciding:
            raise typer.BadParameter(f"{', '.join(deciding)}: nothing is decided with {own}")
        if self.replay is not None and seed is not None:
            raise typer.BadParameter("--replay takes the seed that is on record; leave out --seed")


@dataclass(frozen=True)
class TrainingSetup:
    """How a task is trained once more."""

    settings: Settings
    task: "Task"
    epochs: int
    device: str
    export_under: Path


def take_up(again: ReplayOptions, terms: TrainingSetup, seed: int, json: bool) -> None:
    """Train what was trained before; the seed is of a static final."""
    if again.replay is not None:
        _replay(terms, again.replay, again.kernels, json)
    elif again.static_final is not None:
        _train_static(terms, again.static_final, again.kernels, seed, json)


def _replay(terms: TrainingSetup, history: Path, kernels: str | None, json: bool) -> None:
    """Replay the run of a history, and print its facts, or where it differed."""
    from esper.training import ReplayDiffers, read_recording
    from esper.workers.cli.progress import stoppable_training
    from esper.workers.cli.train.summary import summary
    from esper.workers.cli.train.summary_tables import print_summary
    from esper.workers.cli.train.trainer import GrowOptions, grow_task

    recording = read_recording(history, kernels, terms.settings)
    try:
        with stoppable_training(terms.epochs, lambda: "stopped", quiet=json) as progress:
            run = grow_task(
                terms.settings,
                terms.task,
                seed=recording.run_config.seed,
                epochs=terms.epochs,
                export_under=terms.export_under,
                on_start=lambda run_id: progress.note(
                    f"run {run_id}: replayed from {history}, {len(recording.reports)} reports"
                ),
                on_epoch=progress.epoch,
                device=terms.device,
                options=GrowOptions(replay=recording),
            )
    except ReplayDiffers as differs:
        if not json:
            raise
        print_json(_where(differs))
        raise typer.Exit(DIFFERENT) from differs
    counts = {"reports": len(recording.reports), "decisions": len(recording.decisions)}
    facts = summary(run) | {"replay": {"identical": True, **counts}}
    if json:
        print_json(facts)
        return
    print_summary(facts)
    console.print(
        f"identical: {counts['reports']} reports and {counts['decisions']} decisions on record",
        soft_wrap=True,
    )


def _train_static(
    terms: TrainingSetup, folder: Path, kernels: str | None, seed: int, json: bool
) -> None:
    """Train the static final of the run in a folder, and print it beside the grown network."""
    from esper.training.recording import store_url
    from esper.workers.cli.progress import stoppable_training
    from esper.workers.cli.train.static_final import train_static_final

    with stoppable_training(terms.epochs, lambda: "stopped", quiet=json) as progress:
        run = train_static_final(
            terms.settings,
            terms.task,
            folder,
            store_url=store_url(kernels, terms.settings),
            seed=seed,
            epochs=terms.epochs,
            export_under=terms.export_under,
            on_epoch=progress.epoch,
            device=terms.device,
        )
    facts = _of_static(run)
    if json:
        print_json(facts)
        return
    print_table(
        ("", "test accuracy", "test loss", "parameters"),
        [
            (name, f"{one['test_accuracy']:.2%}", f"{one['test_loss']:.4f}", f"{one['params']:,}")
            for name, one in (("grown", facts["grown"]), ("static final", facts["static_final"]))
        ],
    )
    console.print(f"exported to {run.exported}", soft_wrap=True)


def _of_static(run: "StaticRun") -> dict[str, Any]:
    own = run.result
    return {
        "run_id": run.run_id,
        "steps": own.steps,
        "exported": str(run.exported),
        "grown": asdict(run.grown),
        "static_final": {
            "test_accuracy": own.test_accuracy,
            "test_loss": own.test_loss,
            "params": own.params,
        },
    }


def _where(differs: "ReplayDiffers") -> dict[str, Any]:
    first = None if differs.difference is None else asdict(differs.difference)
    return {
        "run_id": differs.run_id,
        "replay": {"identical": False, "first": first, "why": str(differs)},
    }
