"""`esper audit` and `esper history export`: audit a run from its topics or from a file."""

from pathlib import Path
from typing import Annotated

import typer

from esper.audit import (
    HistoryUnreadable,
    RunRecords,
    audit,
    fetch_history,
    read_history,
    with_kernels,
    write_history,
)
from esper.settings import Settings
from esper.signing import KeyUnusable, TrustedKeys
from esper.workers.cli.output import Json, console, print_json

IDENTICAL, DIFFERENT, UNREADABLE = 0, 1, 2

history = typer.Typer(help="Export the records of a run.", no_args_is_help=True)


@history.callback()
def histories() -> None:
    """Export the records of a run."""


def audit_run(
    run: Annotated[str | None, typer.Argument(help="The run's id.")] = None,
    history: Annotated[
        Path | None, typer.Option(help="Read this exported history instead of the topics.")
    ] = None,
    trusted_key: Annotated[
        Path | None,
        typer.Option(
            help="Public keys of the bandit workers. Records that none of them signed, and that no "
            "report leads to, are counted as foreign. Default: ESPER_TRUSTED_KEY_FILE."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Recompute every decision of a run and compare it with the record, byte for byte.

    Exits 0 if all are identical, 1 if a record differs or is missing (the first one is named),
    2 if the records or the keys could not be read.
    """
    if (run is None) == (history is None):
        raise typer.BadParameter("give either a run id or --history FILE")
    try:
        found = read_history(history) if history else _fetch(str(run))
        key_file = trusted_key or Settings().trusted_key_file
        trusted_keys = None if key_file is None else TrustedKeys(key_file)
    except (HistoryUnreadable, KeyUnusable) as error:
        console.print(str(error), style="red", soft_wrap=True)
        raise typer.Exit(UNREADABLE) from error
    verdict = audit(found, trusted_keys)
    if json:
        print_json(verdict.facts())
    else:
        console.print(str(verdict), soft_wrap=True)
    raise typer.Exit(IDENTICAL if verdict.identical else DIFFERENT)


@history.command("export")
def export(
    run: Annotated[str, typer.Argument(help="The run's id.")],
    file: Annotated[Path | None, typer.Argument(help="Default: RUN.history.jsonl")] = None,
    kernels: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Also copy the run's planted kernels to this folder, for "
            "`esper train TASK --replay FILE --kernels FOLDER`.",
        ),
    ] = None,
) -> None:
    """Write the reports and decisions of a run to a file for `esper audit --history`.

    The file also has the locations and signatures of the kernels, so that the run can be replayed.
    """
    target = file or Path(f"{run}.history.jsonl")
    settings = Settings()
    try:
        found = with_kernels(settings.kafka, _fetch(run))
        if kernels is not None:
            from esper.workers.cli.kernel_copies import copy_kernels

            copied = copy_kernels(settings, found, kernels)
            console.print(f"{copied} kernels in {kernels}", soft_wrap=True)
        count = write_history(found, target)
    except HistoryUnreadable as error:
        console.print(str(error), style="red", soft_wrap=True)
        raise typer.Exit(UNREADABLE) from error
    console.print(f"{count} records in {target}", soft_wrap=True)


def _fetch(run: str) -> RunRecords:
    return fetch_history(Settings().kafka, run)
