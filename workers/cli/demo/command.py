"""`esper demo`: grow a network with real services, then export and audit it."""

from typing import Annotated, Any

import typer

from esper.settings import Settings
from esper.workers.cli.output import Json, console, print_json, print_table
from esper.workers.cli.stack import Optional, With
from esper.workers.cli.train.summary_tables import print_reasons, print_seeds, timing_line

STOP_MESSAGE = "interrupted; all started services have been stopped"


def demo(
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training set.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights, batches and decisions.")] = 0,
    with_: With = None,
    json: Json = False,
) -> None:
    """Watch a network grow: real Kafka and Redis, compile and bandit workers, training, audit.

    A host that cannot find shifted shapes tries every shipped blueprint beside its training. All of
    it runs on this machine in ESPER_HOME/demo and is stopped when the command ends, also after
    Ctrl-C. Takes about two minutes. Exits 1 unless growth, export and audit succeeded.
    """
    from esper.workers.cli.demo.run import run_demo, succeeded
    from esper.workers.cli.progress import stoppable_training

    home = (Settings().home / "demo").resolve()
    with stoppable_training(epochs, lambda: STOP_MESSAGE, quiet=json) as progress:
        facts = run_demo(
            home,
            seed=seed,
            epochs=epochs,
            say=progress.note,
            on_epoch=progress.epoch,
            postgres=Optional.POSTGRES in (with_ or ()),
        )
    if json:
        print_json(facts)
    else:
        _print(facts)
    raise typer.Exit(0 if succeeded(facts) else 1)


def _print(facts: dict[str, Any]) -> None:
    twin, check, verdict = facts["never_grown"], facts["export_check"], facts["audit"]
    console.print()
    print_seeds(facts["seeds"])
    print_reasons(facts["reasons"])
    print_table(
        ("host, same seed", "test accuracy", "parameters"),
        [
            ("grown", f"{facts['test_accuracy']:.2%}", f"{facts['params']:,}"),
            ("never grown", f"{twin['test_accuracy']:.2%}", f"{twin['params']:,}"),
        ],
    )
    console.print(timing_line("submitted → ready", facts["submit_to_ready_ms"]))
    console.print(timing_line("decision → active", facts["decision_to_active_ms"]))
    console.print(
        f"export: {check['samples']} lines in a fresh interpreter without esper, "
        f"largest difference {check['max_difference']:.1e}"
    )
    word = "identical" if verdict["identical"] else f"DIFFERENT: {verdict['finding']}"
    count = verdict["candidate_records"]
    others = f" and {count} records of their other candidates" if count else ""
    console.print(
        f"audit: {verdict['decisions']} decisions{others} from {verdict['reports']} reports, {word}"
    )
    console.print(f"files: {facts['exported']}", soft_wrap=True)
